"""How good is a reconstruction without a truth, and what should be tried next?"""

import ptycho_torch as pt

# Two probe modes, reconstructed with one: the evaluation says so.
scan = pt.simulate(object_kind="dead_leaves", N=48, n_patterns=120, step_px=4, photons_per_pattern=1e5, modes=2, seed=5)
evaluation = pt.evaluate(scan, modes=1, epochs=10, accelerator="cpu")

ratio = evaluation.report["residual_over_floor"]["used"]
print(f"residual {ratio:.1f} times its Poisson floor")
frc = evaluation.report["frc"]
print("half-bit threshold:", frc["half_bit_crossing"], "at", frc["half_bit"], "of Nyquist")
for advice in evaluation.advice:
    print("-", advice.text)
pt.plots.frc(evaluation).savefig("which_settings.png", dpi=120)
