"""What every stage script does around its own work."""
