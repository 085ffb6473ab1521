"""Who has how many in memory, and who has most: at the same cost however many there are."""

from collections import Counter, defaultdict


class Crowds:
    """Counts by name: of a workspace, or a type."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._having: defaultdict[int, dict[str, None]] = defaultdict(dict)
        """Those who have so many."""
        self._most = 0

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, name: str) -> bool:
        return name in self._counts

    def change(self, name: str, by: int) -> None:
        """There is one more of it, or so many fewer."""
        before = self._counts[name]
        after = before + by
        if before:
            having = self._having[before]
            del having[name]
            if not having:
                del self._having[before]
        if after:
            self._counts[name] = after
            self._having[after][name] = None
        else:
            del self._counts[name]
        self._most = max(self._most, after)
        while self._most and self._most not in self._having:
            self._most -= 1

    @property
    def crowded(self) -> str:
        """One that has most; there must be one."""
        return next(iter(self._having[self._most]))
