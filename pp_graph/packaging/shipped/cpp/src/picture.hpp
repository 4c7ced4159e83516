// Pictures, and how they become inputs.
#pragma once

#include <openvino/openvino.hpp>
#include <string>

#include "description.hpp"

// Reads an .npy array as it is; a binary .ppm or .pgm of 8 bits as (height, width, channels) in RGB; any other file as
// the bytes of the input's tensor. Throws PackageError.
ov::Tensor read_picture(const std::string& path, const InputSpec& spec);

// Brings a picture into the form of an input: lays out and scales (H,W,C) or (H,W) of uint8; uses an array of the
// input's element type as it is; adds the batch axis, and repeats the picture if the model fixes a larger batch.
// Throws PackageError if it does not fit.
ov::Tensor to_input(const ov::Tensor& picture, const InputSpec& spec);

// Throws PackageError unless element type and shape are those of the input.
void check_fits(const ov::Tensor& tensor, const InputSpec& spec);
