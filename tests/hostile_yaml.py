"""YAML texts with what a slip or a hostile hand may put into them: objects, bombs, odd numbers, wrong types, other names."""

from collections.abc import Iterator

import numpy as np

#: `touch hacked` in every way in which a text could run it
CODE = (
    "!!python/object/apply:os.system ['touch hacked']",
    "!!python/object/new:subprocess.Popen [[touch, hacked]]",
    "!!python/object/apply:builtins.exec [\"open('hacked', 'w')\"]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1]",
    "__import__('os').system('touch hacked')",
    "'; touch hacked; '",
    "$(touch hacked)",
    "{__class__: {__init__: {__globals__: hacked}}}",
)


def bomb(levels: int, merged: bool = False) -> str:
    """Return mappings whose last holds 9 ** levels values by aliases of aliases, or by merges of merges."""
    lines = ["x0: &x0 {k: v, l: w}" if merged else "x0: &x0 [v, v, v]"]
    for level in range(1, levels + 1):
        nine = ", ".join([f"*x{level - 1}"] * 9)
        lines.append(f"x{level}: &x{level} " + (f"{{<<: [{nine}]}}" if merged else f"[{nine}]"))
    return "\n".join(lines) + "\n"


#: values that no setting expects, or that cost more than they say
VALUES = (
    *CODE,
    *("", "~", "[]", "{}", "true", "yes", "-1", "0", "1.5", ".inf", "-.inf", ".nan", "1e400", "1e-400", "07", "0x1F", "1_0"),
    *("9" * 5_000, "0b" + "1" * 10_000, "1:" + "59:" * 900 + "59", "9223372036854775808", "2020-01-01", "2020-99-99"),
    *("!!int ''", "!!bool maybe", "!!float word", "!!timestamp word", "!!binary '%'", "!!set {a, b}", "!!omap [a: 1]"),
    *("&a [*a]", "&b {k: *b}", "*unknown", "&c", "<<", "=", "? [a, b]", "{[a]: b}", "{1: a}", "{null: a}", "{a: 1, a: 2}"),
    *("[" * 3_000, "{a: " * 900, "- " * 900, "[" * 28 + "]" * 28, "[" * 40 + "]" * 40, "'" + "x" * 20_000 + "'"),
    *("../../../etc/passwd", "/etc/passwd", "~root", "a\\0b", '"\\0"', '"\\uD800"', '"a\\nb"', "|\n  a\n  b"),
    *("%TAG ! x", "---", "...", "best", "matched", "[best]", "mri", "[mri, mri]", "[[0], [1]]", "{train: 1}"),
    *("template", "\u2028", "\ufeff", "\t"),
)  # fmt: skip


def hostile_texts(text: str, count: int, seed: int) -> Iterator[bytes]:
    """Yield versions of a YAML text: values, names and lines replaced, doubled, moved, cut, bombs and bytes put in."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        lines = text.splitlines()
        for _ in range(rng.integers(1, 4)):
            lines = _changed(lines, rng)
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        place = int(rng.integers(len(content) + 1))
        odd = (b"", b"", b"", b"", b"", b"\x00", b"\xff", b"\x85", b"\xed\xa0\x80")[rng.integers(9)]
        yield content[:place] + odd + content[place:]


def _changed(lines: list[str], rng: np.random.Generator) -> list[str]:
    place, value = int(rng.integers(len(lines))), VALUES[rng.integers(len(VALUES))]
    line, lines = lines[place], list(lines)
    name, _, _ = line.partition(":")
    changes = (
        lambda: [f"{name}: {value}"],
        lambda: [f"{name}: {value}"],
        lambda: [f"{name}: [{value}]"],
        lambda: [line.replace(name.strip() or "-", value, 1)],
        lambda: [f"{line} {value}"],
        lambda: [line, line],
        lambda: [f"  {line}"],
        lambda: [],
        lambda: [line, lines[int(rng.integers(len(lines)))]],
        lambda: [bomb(int(rng.integers(1, 40)), bool(rng.integers(2))), line],
        lambda: [line, f"{name}_: &a {value}", f"{name}__: *a"],
    )
    lines[place : place + 1] = changes[rng.integers(len(changes))]()
    return lines or [""]
