"""The readable definition of every operator: loops over tokens in plain PyTorch, complex A included.

Names, arguments and layouts (channels first, time last) are mamba_ssm's. From code to paper (arXiv 2406.19006, section
3):
    u, x   input tokens                        delta, d   step size, after bias and softplus
    A, B, C, D   state space matrices          h          hidden state, one row of `state` values a channel
    z      gate                                A_b        A of the backward (time-flipped) scan
Two changes to Mamba: `elemental_residual` (h_{-1} = u_0 instead of 0) and the masked backward scan, in which a token's
own input is carried on but not read (`selective_scan_ref_sub`).
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

SCAN_INPUTS = ("conv", "raw")


def selective_scan_ref(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    *,
    elemental_residual=True,
):
    """The selective scan with the elemental residual, one token after another; the definition of correct.

    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t with h_{-1} = u_0 (0 without the residual); y_t = (<C_t, h_t> + D u_t)
    silu(z_t).

    Args:
        u, delta, z: (batch, dim, length). A: (dim, state), real or complex. D, delta_bias: (dim).
        B, C: (dim, state), (batch, state, length) or (batch, groups, state, length). With a complex A, constant B and
        C
            are complex, the others real with 2 * state entries, real and imaginary parts in turn.
        delta_softplus: whether d = softplus(delta + delta_bias) or delta + delta_bias.
        return_last_state: also return h of the last token, (batch, dim, state).

    Returns:
        out (batch, dim, length), u's type, or (out, last_state). Arithmetic is float32, or float64 for float64 input.
    """
    return _scan_loop(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, elemental_residual, masked=False
    )


def selective_scan_ref_sub(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    *,
    elemental_residual=True,
):
    """The masked scan (the paper's diagonal mask): as `selective_scan_ref`, but a token's own input is not read.

    y_t = <C_t, h_t - d_t B_t u_t> + D u_t for t > 0, and D u_0 at the first token; what is carried stays unchanged.
    The last state returned is the masked one too (0 for a length of 1).
    """
    return _scan_loop(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, elemental_residual, masked=True
    )


def _scan_loop(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, elemental_residual, masked):
    out_dtype = u.dtype
    compute = torch.float64 if out_dtype == torch.float64 else torch.float32
    u, delta = u.to(compute), delta.to(compute)
    d = delta if delta_bias is None else delta + delta_bias.to(compute).unsqueeze(-1)
    if delta_softplus:
        d = F.softplus(d)
    B, C = (_over_tokens(matrix, u, complex_pairs=A.is_complex(), compute=compute) for matrix in (B, C))
    decay = torch.exp(torch.einsum("bdl,dn->bldn", d, A))
    drive = torch.einsum("bdl,bldn,bdl->bldn", d, B, u)
    h = torch.zeros_like(drive[:, 0])
    if elemental_residual:
        h = h + u[:, :, 0].unsqueeze(-1)
    outputs = []
    for t, (a_t, x_t, C_t) in enumerate(zip(decay.unbind(1), drive.unbind(1), C.unbind(1), strict=True)):
        carried = a_t * h
        h = carried + x_t
        read = h
        if masked:
            read = carried if t > 0 else torch.zeros_like(carried)
        outputs.append((read * C_t).sum(-1))
    y = torch.stack(outputs, dim=-1)
    if y.is_complex():
        y = 2 * y.real
    if D is not None:
        y = y + u * D.to(compute).unsqueeze(-1)
    if z is not None:
        y = y * F.silu(z.to(compute))
    y = y.to(out_dtype)
    return (y, read) if return_last_state else y


def _over_tokens(matrix, u, complex_pairs, compute):
    """B or C in any of its forms as (batch, length, dim, state)."""
    batch, dim, length = u.shape
    if matrix.dim() == 2:
        matrix = matrix if matrix.is_complex() else matrix.to(compute)
        return matrix.expand(batch, length, -1, -1)
    matrix = matrix.to(compute)
    if matrix.dim() == 3:
        matrix = matrix.unsqueeze(1)
    if complex_pairs:
        matrix = torch.view_as_complex(rearrange(matrix, "... (length two) -> ... length two", two=2).contiguous())
    return repeat(matrix, "b g n l -> b l (g h) n", h=dim // matrix.shape[1])


def scan_source(x, convolved, scan_input):
    """What the scan reads: the convolved x (the method), or x before the convolution (the published code)."""
    if scan_input not in SCAN_INPUTS:
        raise ValueError(f"scan_input must be one of {SCAN_INPUTS}, got {scan_input!r}")
    return convolved if scan_input == "conv" else x


def _inner_scan_inputs(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias, scan_input
):
    """Convolution and projections of a Mamba block, channels first, for the reference: (u, delta, B, C, z)."""
    x, z = xz.chunk(2, dim=1)
    length, dim, width = x.shape[-1], x.shape[1], conv1d_weight.shape[-1]
    convolved = F.silu(F.conv1d(x, conv1d_weight, conv1d_bias, padding=width - 1, groups=dim)[..., :length])
    projected = F.linear(rearrange(convolved, "b d l -> b l d"), x_proj_weight)
    rank = delta_proj_weight.shape[1]
    entries = A.shape[-1] * (2 if A.is_complex() else 1)
    delta = rearrange(F.linear(projected[..., :rank], delta_proj_weight), "b l d -> b d l")
    matrices, at = [], rank
    for given, bias in ((B, B_proj_bias), (C, C_proj_bias)):
        if given is None:
            given = projected[..., at : at + entries]
            given = given if bias is None else given + bias
            pattern = "b l (n two) -> b n (l two)" if A.is_complex() else "b l (n two) -> b (n two) l"
            given = rearrange(given, pattern, two=2 if A.is_complex() else 1)
            at += entries
        matrices.append(given)
    return scan_source(x, convolved, scan_input), delta, *matrices, z


def mamba_inner_ref_no_out_proj(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    A,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
    *,
    elemental_residual=True,
    masked=False,
    scan_input="conv",
):
    """`mamba_inner_ref` without its output projection; returns (batch, dim, length)."""
    u, delta, B, C, z = _inner_scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias, scan_input
    )
    scan = selective_scan_ref_sub if masked else selective_scan_ref
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, elemental_residual=elemental_residual)


def mamba_inner_ref(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    out_proj_weight,
    out_proj_bias,
    A,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
    *,
    elemental_residual=True,
    masked=False,
    scan_input="conv",
):
    """A Mamba block after its input projection, one direction: convolution, SiLU, projections, scan, gate, output.

    Args:
        xz: (batch, 2 * dim, length), the scan's input x and the gate z. conv1d_weight: (dim, 1, width). conv1d_bias:
        (dim).
        x_proj_weight: (rank + 2 * state, dim), delta, B and C from x. delta_proj_weight: (dim, rank).
        out_proj_weight: (d_model, dim). A: (dim, state). B, C: constants (dim, state), or None where they come from x.
        masked: the masked scan. scan_input: "conv", the scan reads the convolved x; "raw", x itself, as published.

    Returns:
        (batch, length, d_model).
    """
    y = mamba_inner_ref_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias,
        B_proj_bias, C_proj_bias, delta_softplus,
        elemental_residual=elemental_residual, masked=masked, scan_input=scan_input,
    )  # fmt: skip
    return F.linear(rearrange(y, "b d l -> b l d"), out_proj_weight, out_proj_bias)


def bimamba_inner_ref(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    out_proj_weight,
    out_proj_bias,
    A,
    A_b,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
    *,
    elemental_residual=True,
    masked_backward=True,
    scan_input="conv",
):
    """VideoMambaPro's block: the forward scan (A) plus the flipped backward scan (A_b), which is masked.

    Both directions share delta, B, C, D and z; arguments and result as in `mamba_inner_ref`. The backward scan runs
    over the flipped sequence, so its elemental residual starts from the last token.
    """
    u, delta, B, C, z = _inner_scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias, scan_input
    )
    rest = {"delta_bias": delta_bias, "delta_softplus": delta_softplus, "elemental_residual": elemental_residual}
    y = selective_scan_ref(u, delta, A, B, C, D, z, **rest)
    scan_backward = selective_scan_ref_sub if masked_backward else selective_scan_ref
    B, C = (m.flip(-1) if m.dim() > 2 else m for m in (B, C))
    y_b = scan_backward(u.flip(-1), delta.flip(-1), A_b, B, C, D, z.flip(-1), **rest)
    return F.linear(rearrange(y + y_b.flip(-1), "b d l -> b l d"), out_proj_weight, out_proj_bias)
