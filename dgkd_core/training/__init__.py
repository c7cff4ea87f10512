"""What trains the networks: the loop, its optimizer and checks, and a task for each network."""
