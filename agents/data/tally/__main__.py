"""Run it: ``python tally < text``, or the archive that is built of it."""

from tally.cli import main

raise SystemExit(main())
