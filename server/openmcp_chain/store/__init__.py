"""Where tasks and workspaces are kept: `base` says what a store promises, `memory` and `mongo` keep the promise."""
