"""Muon with all matrices of one shape orthogonalised at once: networks of many small layers spend their steps there."""

import torch
from torch.optim._muon import _adjust_lr


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024), step for step, but for the order in which products are summed."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters, gradients, buffers = [], [], []
            self._init_group(group, parameters, gradients, buffers)
            if not parameters:
                continue
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for shape in dict.fromkeys(parameter.shape for parameter in parameters):
                alike = [i for i, parameter in enumerate(parameters) if parameter.shape == shape]
                stacked = torch.stack([updates[i] for i in alike])
                turned = orthogonalised(stacked, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], shape)
                torch._foreach_add_([parameters[i] for i in alike], list(turned.to(stacked.dtype)), alpha=-rate)
        return loss


def orthogonalised(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """`[N, A, B]` to about the nearest matrices with singular values of about one, in bfloat16: `steps` of Newton and
    Schulz's iteration with the odd polynomial of those coefficients (Jordan et al. 2024)."""
    a, b, c = coefficients
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / torch.linalg.matrix_norm(x)[:, None, None].clamp_min(eps)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
