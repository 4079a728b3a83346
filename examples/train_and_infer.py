"""Train a network on one scan, infer another object with it, and compare the image with the truth."""

import ptycho_torch as pt

options = {"object_kind": "lines", "N": 48, "n_patterns": 200, "step_px": 4, "photons_per_pattern": 1e5}
scan, other = pt.simulate(**options, seed=1), pt.simulate(**options, seed=2)

model, training = pt.train(scan, gridsize=2, epochs=2, width=8, accelerator="cpu")
pt.save("model.safetensors", model)

image, summary = pt.infer("model.safetensors", other, accelerator="cpu")
evaluation = pt.evaluate(image, other)
print(f"val_loss {training['training']['losses']['val_loss']:.4g}")
print(f"{summary['patterns_per_cpu_second']:.0f} patterns per CPU second")
print(f"correlation with the truth {evaluation.report['figures']['complex_correlation']:.3f}")
pt.plots.comparison(evaluation).savefig("train_and_infer.png", dpi=120)
