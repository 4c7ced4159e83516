#include "check.hpp"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <sstream>

#include "npy.hpp"
#include "results.hpp"

namespace {

// Compares every `step`-th number from `start` on.
std::string difference(const ov::Tensor& expected, const ov::Tensor& found, const ChannelSpec& spec, std::size_t start,
                       std::size_t step, double near, double share) {
    std::size_t total = 0, differing = 0;
    double scale = 1, largest = 0;
    for (std::size_t place = start; place < expected.get_size(); place += step) {
        const double value = number_at(expected, place);
        scale = std::isfinite(value) ? std::max(scale, std::fabs(value)) : scale;
    }
    for (std::size_t place = start; place < expected.get_size(); place += step, ++total) {
        const double wanted = number_at(expected, place), own = number_at(found, place);
        if (wanted == own || (!spec.exact && std::isnan(wanted) && std::isnan(own))) {
            continue;
        }
        if (spec.exact || !(std::fabs(wanted - own) <= near * scale)) {
            ++differing;
            largest = std::isnan(wanted - own) ? largest : std::max(largest, std::fabs(wanted - own));
        }
    }
    const bool per_pixel = spec.axes.find('H') != std::string::npos;
    if (differing == 0 || (spec.exact && per_pixel && differing <= share * total)) {
        return "";
    }
    std::ostringstream text;
    text << " differs in " << differing << " of " << total << (spec.exact ? " decisions" : " numbers");
    if (!spec.exact) {
        text << " by up to " << largest << " (allowed " << near * scale << ")";
    }
    return spec.name + text.str() + "; ";
}

}  // namespace

bool check(Model& model, const Description& description, const std::string& folder, double near, double share) {
    bool equal = true;
    for (std::size_t index = 0; index < description.golden.size(); ++index) {
        const std::string golden = folder + "/golden/" + std::to_string(index) + "/";
        std::map<std::string, ov::Tensor> inputs;
        for (std::size_t place = 0; place < description.inputs.size(); ++place) {
            inputs[description.inputs[place].name] = read_npy(golden + "input_" + std::to_string(place) + ".npy");
        }
        const auto results = model.run(inputs);
        const double allowed = near >= 0 ? near : model.precision() == "f32" ? 1e-3 : 2e-2;
        std::string differences;
        for (std::size_t place = 0; place < results.size(); ++place) {
            const auto& spec = description.outputs[place];
            const auto expected = read_npy(golden + "output_" + std::to_string(place) + ".npy");
            if (expected.get_shape() != results[place].get_shape() ||
                expected.get_element_type() != results[place].get_element_type()) {
                std::ostringstream text;
                text << spec.name << " is " << results[place].get_shape() << ", expected " << expected.get_shape() << "; ";
                differences += text.str();
                continue;
            }
            if (spec.channels.empty()) {
                differences +=
                    difference(expected, results[place], {spec.name, spec.axes, spec.exact, false}, 0, 1, allowed, share);
            }
            for (std::size_t channel = 0; channel < spec.channels.size(); ++channel) {
                differences += difference(expected, results[place], spec.channels[channel], channel,
                                          spec.channels.size(), allowed, share);
            }
        }
        equal = equal && differences.empty();
        std::cout << description.golden[index] << ": "
                  << (differences.empty() ? "as expected" : differences.substr(0, differences.size() - 2)) << "\n";
    }
    std::cout << model.device() << " in " << model.precision() << ": "
              << (equal ? "all decisions are equal" : "not as expected") << "\n";
    return equal;
}
