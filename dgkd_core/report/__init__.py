"""One page that shows a run: what is read, how it is drawn, how it is written."""
