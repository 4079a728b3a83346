"""The place of the TensorFlow backend of the ptycho suite; 0.1 neither trains nor images yet."""
