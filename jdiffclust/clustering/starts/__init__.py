"""Starting partitions, and the number of clusters."""
