// Results as JSON.
#pragma once

#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "description.hpp"

// A number of a tensor as double, which holds all of them but large 64-bit integers.
double number_at(const ov::Tensor& tensor, std::size_t place);

std::string quoted(const std::string& text);

// The results of the first image, without braces. Maps and masks are summarised: their shape, and the number of pixels
// that are true, or the lowest and highest value. Lists of candidates end where the model's count says.
std::string as_json(const std::vector<ov::Tensor>& results, const Description& description);
