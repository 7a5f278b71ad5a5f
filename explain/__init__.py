"""Explain which patches the model looks at.

For fixed gates, a selective scan is a linear map of its tokens. `scans` extracts the gates from a running model,
`hidden_attention` computes the matrix of the map, and `relevance` propagates a class's logit back to the patches.
docs/explanation.md has the derivations.
"""
