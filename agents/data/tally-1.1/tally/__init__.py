"""The words of a text, the most frequent first."""

VERSION = "1.1"
