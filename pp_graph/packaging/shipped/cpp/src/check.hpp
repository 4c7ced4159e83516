// Compares golden images with their expected results, as check.py does.
#pragma once

#include <string>

#include "model.hpp"

// Prints what differs. A negative `near` stands for 0.001, or 0.02 on a device that computes in less than f32; `share` is
// the allowed share of decisions about pixels that differ. Returns true if nothing does.
bool check(Model& model, const Description& description, const std::string& folder, double near, double share);
