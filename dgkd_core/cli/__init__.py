"""The dgkd command."""
