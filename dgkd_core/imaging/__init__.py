"""Picture processing without learning."""
