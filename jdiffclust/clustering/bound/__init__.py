"""The variational bound: its terms, its draws, what they score; shared by the methods."""
