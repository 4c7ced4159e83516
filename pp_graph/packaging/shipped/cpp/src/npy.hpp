// Arrays in NumPy's .npy files.
#pragma once

#include <openvino/openvino.hpp>
#include <string>

// NumPy's name of an element type, such as float32.
std::string dtype_name(const ov::element::Type& type);

ov::element::Type element_type(const std::string& dtype);

// Throws PackageError if the file is not a whole array in C order.
ov::Tensor read_npy(const std::string& path);

void write_npy(const std::string& path, const ov::Tensor& tensor);
