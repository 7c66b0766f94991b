"""Whether what is said stands in the tables: the numbers of a sentence against the files that it names."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
from pretrain_xai.statistics.findings import Finding
from pretrain_xai.tables import read_table


def save(tables: Mapping[str, pd.DataFrame], folder: Path) -> dict[str, pd.DataFrame]:
    """Write tables as the notebooks do, and return what the report reads."""
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return {name: read_table(folder / f"{name}.csv") for name in tables}


def check_findings(found: Iterable[Finding], folder: Path) -> int:
    """Check every sentence against its table; return how many numbers there were."""
    return sum(check_numbers(finding.text, folder / f"{finding.table}.csv") for finding in found)


def check_numbers(text: str, file: Path) -> int:
    """Check that every number of a text stands in a table, rounded as the text rounds it; return how many there were."""
    words, table = file.read_text(encoding="utf-8"), pd.read_csv(file)
    values = [value for name in table.select_dtypes("number") for value in table[name].dropna()]
    numbers = re.findall(r"[+-]?\d+(?:\.\d+)?(?:e-\d+)?", re.sub(r"95 %|[a-z]+\d", "", text))
    for number in numbers:
        decimals = "1e" if "e" in number else f"{len(number.partition('.')[2])}f"
        style = f"{'+' if number[0] in '+-' else ''}.{decimals}"
        stands = re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", words)
        assert stands or number in {format(value, style) for value in values}, (number, text)
    return len(numbers)
