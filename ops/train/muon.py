"""Muon for matrices and Adam for vectors in one optimiser; each step is given a scale of the learning rates.

Muon: momentum 0.95 (Nesterov), five Newton-Schulz steps towards the nearest orthogonal matrix, scale
sqrt(max(1, rows / columns)), weight decay 0.01. Convolutions are flattened to [out, in * k].
Matrices of one shape are stepped together, because the small ones are bound by overhead.
"""

import torch

NS = (3.4445, -4.7750, 2.0315)


def orthogonalise(g):
    """[n, rows, columns] of f32, made nearly orthogonal each."""
    x = g.bfloat16()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(5):
        a = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=NS[1], alpha=NS[2]), x, beta=NS[0])
    return (x.mT if tall else x).float()


class Muon:
    def __init__(self, named_parameters, lr=0.02, adam_lr=2e-3, momentum=0.95, weight_decay=0.01, adam_only=()):
        groups, self.vectors = {}, []
        for name, p in named_parameters:
            if not p.requires_grad:
                continue
            if p.ndim >= 2 and not any(k in name for k in adam_only):
                groups.setdefault((p.shape[0], p[0].numel()), []).append(p)
            else:
                self.vectors.append(p)
        self.groups = list(groups.values())
        self.lr, self.adam_lr, self.momentum, self.weight_decay = lr, adam_lr, momentum, weight_decay
        self.adam = torch.optim.Adam(self.vectors, lr=adam_lr, betas=(0.9, 0.95), foreach=True)
        self.buffers = [torch.stack([torch.zeros_like(p).flatten(1) for p in g]) for g in self.groups]

    def parameters(self):
        return [p for g in self.groups for p in g] + self.vectors

    @torch.no_grad()
    def step(self, scale, clip=1.0):
        """One step at `scale` times the learning rates. Returns the gradient norm before clipping, a tensor."""
        norm = torch.nn.utils.clip_grad_norm_([p for p in self.parameters() if p.grad is not None], clip)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * scale
        self.adam.step()
        for group, buffer in zip(self.groups, self.buffers):
            grad = torch.stack([(torch.zeros_like(p) if p.grad is None else p.grad).flatten(1) for p in group])
            buffer.mul_(self.momentum).add_(grad)
            update = orthogonalise(grad.add_(buffer, alpha=self.momentum))
            update *= max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            for p, u in zip(group, update):
                p.mul_(1 - self.lr * scale * self.weight_decay).add_(u.view_as(p), alpha=-self.lr * scale)
        for p in self.parameters():
            p.grad = None
        return norm

    def state_dict(self):
        return {"buffers": self.buffers, "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        for b, s in zip(self.buffers, state["buffers"]):
            b.copy_(s)
        self.adam.load_state_dict(state["adam"])
