"""The selective scan: `mamba_ssm`, laid out like the package of that name, and the C++ sources of its CPU kernel."""
