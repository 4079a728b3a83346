"""From NumPy arrays to a figure: what a notebook needs to reconstruct one scan."""

import numpy as np
import ptycho_torch as pt

# Stand-ins for arrays of your own: counts (M, N, N), positions (M, 2) [x, y] in object pixels, a guess of the probe.
simulated = pt.simulate(object_kind="dead_leaves", N=48, n_patterns=120, step_px=4, photons_per_pattern=1e5, seed=3)
counts, positions_px, probe = simulated.counts().astype(np.uint32), simulated.positions_px, simulated.probe

scan = pt.scan_from_arrays(counts, positions_px, measurement="counts", probe=probe)
image, summary = pt.reconstruct(scan, modes=1, epochs=20, hold_out=0.1, accelerator="cpu")

residual, floor = summary["residual"], summary["poisson_floor"]
print(f"residual of held-out patterns {residual['held_out']:.4f}, Poisson floor {floor['held_out']:.4f}")
pt.plots.reconstruction(image).savefig("own_arrays.png", dpi=120)
