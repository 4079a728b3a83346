"""The ``safetensors`` library, for the files that this backend reads and writes."""

from ptycho_data.tensor_files import TensorFiles
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

TENSOR_FILES = TensorFiles(save_file, safe_open, SafetensorError)
