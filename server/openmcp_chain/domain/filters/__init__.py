"""Which tasks are wanted: the filter language of AIP-160 (https://google.aip.dev/160), as far as tasks have use for it.

`docs/filters.md` describes it for users. `text` reads it, `tree` says what it means of a task, and
`store.mongo.filters` says the same in MongoDB's words; a test holds the two to each other.
"""

from openmcp_chain.domain.filters.text import CHARACTERS, CONDITIONS, DEPTH, parse
from openmcp_chain.domain.filters.tree import (
    EVERYTHING,
    MILLISECOND,
    And,
    Comparator,
    Comparison,
    Filter,
    Label,
    Not,
    Or,
    matches,
    span,
)

__all__ = [
    "CHARACTERS",
    "CONDITIONS",
    "DEPTH",
    "EVERYTHING",
    "MILLISECOND",
    "And",
    "Comparator",
    "Comparison",
    "Filter",
    "Label",
    "Not",
    "Or",
    "matches",
    "parse",
    "span",
]
