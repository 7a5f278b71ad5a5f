"""What the model looks at, from the model itself.

A selective scan is a linear map of its tokens once its gates are given: `scans` reads those gates off a running model,
`hidden_attention` writes the map down as a matrix, and `relevance` follows it from a class's logit back to the
patches. docs/explanation.md has the derivations.
"""
