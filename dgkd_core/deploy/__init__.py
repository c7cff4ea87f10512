"""The model that the chain has made, taken away: a folder, and what runs it on photographs."""
