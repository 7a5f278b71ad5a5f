"""The mixer module built from the operators."""
