"""Every number of a sentence stands in the table that the sentence is about."""

import re

import pandas as pd


def assert_numbers_stand_in(text: str, table: pd.DataFrame) -> None:
    """Find each number of `text` among the table's numbers, rounded alike, or as a word of its text."""
    values = table.select_dtypes("number").to_numpy().ravel()
    words = set(
        re.findall(r"-?\d+(?:\.\d+)?", " ".join(table.select_dtypes(exclude="number").astype(str).to_numpy().ravel()))
    )
    for number in re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?", text):
        decimals = len(number.partition(".")[2])
        rounded = {f"{value:.{decimals}f}" for value in values}
        assert number.removeprefix("+") in rounded | words, (number, text)
