"""Who has how many in memory, and who has most: at the same cost however many there are."""

from collections import Counter, defaultdict


class Crowds:
    """Counts by workspace."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._having: defaultdict[int, dict[str, None]] = defaultdict(dict)
        """Those who have so many."""
        self._most = 0

    def __len__(self) -> int:
        return len(self._counts)

    def change(self, workspace: str, by: int) -> None:
        """The workspace has one more, or so many fewer."""
        before = self._counts[workspace]
        after = before + by
        if before:
            having = self._having[before]
            del having[workspace]
            if not having:
                del self._having[before]
        if after:
            self._counts[workspace] = after
            self._having[after][workspace] = None
        else:
            del self._counts[workspace]
        self._most = max(self._most, after)
        while self._most and self._most not in self._having:
            self._most -= 1

    @property
    def crowded(self) -> str:
        """One that has most; there must be one."""
        return next(iter(self._having[self._most]))
