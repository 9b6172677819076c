"""Tables for a terminal: columns as wide as their widest cell."""

from __future__ import annotations


def aligned(rows: list[list[str]], left: int = 1) -> str:
    """Rows of equal length as lines: the first `left` columns to the left, the others to the right, two spaces between.

    >>> print(aligned([["link", "Mbit/s"], ["s-g", "2"]]))
    link  Mbit/s
    s-g        2
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        sized = enumerate(zip(row, widths))
        cells = [cell.ljust(width) if column < left else cell.rjust(width) for column, (cell, width) in sized]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
