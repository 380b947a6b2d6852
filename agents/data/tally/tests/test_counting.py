"""``python -m unittest discover -s tests -t .``"""

import random
import unittest

from tally.counting import top, words


class Words(unittest.TestCase):
    def test_small_and_capital_letters_are_the_same(self) -> None:
        self.assertEqual(words("Otter OTTER otter's"), ["otter", "otter", "otter's"])

    def test_common_words_do_not_count(self) -> None:
        self.assertEqual(words("The otter and the heron"), ["otter", "heron"])

    def test_a_text_without_words_has_none(self) -> None:
        self.assertEqual(words(" ... \n\t--- "), [])


class Top(unittest.TestCase):
    def test_the_most_frequent_first_then_by_the_alphabet(self) -> None:
        self.assertEqual(top("lynx wren lynx heron", 2), [("lynx", 2), ("heron", 1)])

    def test_as_counted_one_by_one(self) -> None:
        chance = random.Random(7)
        for _ in range(400):
            given = [f"w{chance.randrange(30)}" for _ in range(200)]
            found = top(" ".join(given), 30)
            self.assertEqual(dict(found), {word: given.count(word) for word in given})
            self.assertEqual(found, sorted(found, key=lambda each: (-each[1], each[0])))
