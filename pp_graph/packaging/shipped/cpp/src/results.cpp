#include "results.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <sstream>

namespace {

constexpr std::size_t LONGEST = 4096;  // numbers of an output that are all printed

std::string number(const ov::Tensor& tensor, std::size_t place) {
    const double value = number_at(tensor, place);
    if (tensor.get_element_type() == ov::element::boolean) {
        return value != 0 ? "true" : "false";
    }
    if (!std::isfinite(value)) {
        return "null";  // JSON has no NaN and no infinity
    }
    char text[40];
    const bool whole = tensor.get_element_type().is_integral_number();
    std::snprintf(text, sizeof text, whole ? "%.0f" : "%.9g", value);
    return text;
}

// The numbers from `start` on, as nested lists of these sizes.
std::string nested(const ov::Tensor& tensor, const std::vector<std::size_t>& sizes, std::size_t axis, std::size_t start,
                   const std::vector<std::size_t>& steps) {
    if (axis == sizes.size()) {
        return number(tensor, start);
    }
    std::string text = "[";
    for (std::size_t place = 0; place < sizes[axis]; ++place) {
        text += (place == 0 ? "" : ", ") + nested(tensor, sizes, axis + 1, start + place * steps[axis], steps);
    }
    return text + "]";
}

std::string summary(const ov::Tensor& tensor, const std::vector<std::size_t>& sizes, bool exact) {
    std::ostringstream text;
    std::size_t count = 1, set = 0, lowest = 0, highest = 0;
    text << "{\"shape\": [";
    for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
        text << (axis == 0 ? "" : ", ") << sizes[axis];
        count *= sizes[axis];
    }
    for (std::size_t place = 0; place < count; ++place) {
        const double value = number_at(tensor, place);
        set += value != 0;
        lowest = std::isnan(value) || value < number_at(tensor, lowest) ? place : lowest;
        highest = std::isnan(value) || value > number_at(tensor, highest) ? place : highest;
    }
    if (exact) {
        text << "], \"true\": " << set << "}";
    } else {
        text << "], \"min\": " << number(tensor, lowest) << ", \"max\": " << number(tensor, highest) << "}";
    }
    return text.str();
}

// One output of a packed tensor, true or false if it is a decision; at one pixel of each image if it repeats at all.
std::pair<ChannelSpec, ov::Tensor> channel_of(const ov::Tensor& packed, const OutputSpec& output, std::size_t channel) {
    const auto& spec = output.channels[channel];
    const bool pixels = output.axes.find('H') != std::string::npos;
    const bool repeated = pixels && spec.axes.find('H') == std::string::npos;
    ov::Shape shape = packed.get_shape();
    const std::size_t step = shape.back();
    shape.pop_back();
    const std::size_t image = ov::shape_size(shape) / shape[0];
    if (repeated) {
        shape = {shape[0], 1};
    }
    ov::Tensor part(spec.decides ? ov::element::boolean : ov::element::f64, shape);
    for (std::size_t place = 0; place < part.get_size(); ++place) {
        const double value = number_at(packed, (repeated ? place * image : place) * step + channel);
        if (spec.decides) {
            static_cast<std::uint8_t*>(part.data())[place] = value != 0;
        } else {
            static_cast<double*>(part.data())[place] = value;
        }
    }
    const std::string axes = repeated ? "NC" : output.axes.substr(0, output.axes.size() - 1);
    return {{spec.name, axes, spec.exact, spec.decides}, part};
}

std::vector<std::pair<ChannelSpec, ov::Tensor>> taken_apart(const std::vector<ov::Tensor>& results,
                                                            const Description& description) {
    std::vector<std::pair<ChannelSpec, ov::Tensor>> singles;
    for (std::size_t place = 0; place < results.size(); ++place) {
        const auto& output = description.outputs[place];
        if (output.channels.empty()) {
            singles.push_back({{output.name, output.axes, output.exact, false}, results[place]});
        }
        for (std::size_t channel = 0; channel < output.channels.size(); ++channel) {
            singles.push_back(channel_of(results[place], output, channel));
        }
    }
    return singles;
}

}  // namespace

double number_at(const ov::Tensor& tensor, std::size_t place) {
    const void* data = tensor.data();
    switch (tensor.get_element_type()) {
    case ov::element::Type_t::boolean:
    case ov::element::Type_t::u8: return static_cast<const std::uint8_t*>(data)[place];
    case ov::element::Type_t::i8: return static_cast<const std::int8_t*>(data)[place];
    case ov::element::Type_t::u16: return static_cast<const std::uint16_t*>(data)[place];
    case ov::element::Type_t::i16: return static_cast<const std::int16_t*>(data)[place];
    case ov::element::Type_t::u32: return static_cast<const std::uint32_t*>(data)[place];
    case ov::element::Type_t::i32: return static_cast<const std::int32_t*>(data)[place];
    case ov::element::Type_t::u64: return static_cast<double>(static_cast<const std::uint64_t*>(data)[place]);
    case ov::element::Type_t::i64: return static_cast<double>(static_cast<const std::int64_t*>(data)[place]);
    case ov::element::Type_t::f16: return static_cast<const ov::float16*>(data)[place];
    case ov::element::Type_t::f32: return static_cast<const float*>(data)[place];
    case ov::element::Type_t::f64: return static_cast<const double*>(data)[place];
    default: throw PackageError("An output has an element type that this program does not know.");
    }
}

std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char each : text) {
        if (each == '"' || each == '\\') {
            result += '\\';
        }
        if (static_cast<unsigned char>(each) < 0x20) {
            char code[8];
            std::snprintf(code, sizeof code, "\\u%04x", each);
            result += code;
        } else {
            result += each;
        }
    }
    return result + "\"";
}

std::string as_json(const std::vector<ov::Tensor>& results, const Description& description) {
    std::size_t count = std::numeric_limits<std::size_t>::max();
    for (std::size_t place = results.size(); place-- > 0;) {
        if (description.outputs[place].counts && results[place].get_size() > 0) {
            count = static_cast<std::size_t>(number_at(results[place], 0));
        }
    }
    std::string text;
    for (const auto& [spec, tensor] : taken_apart(results, description)) {
        std::vector<std::size_t> sizes(tensor.get_shape().begin(), tensor.get_shape().end());
        std::vector<std::size_t> steps(sizes.size(), 1);
        for (std::size_t axis = sizes.size(); axis-- > 1;) {
            steps[axis - 1] = steps[axis] * sizes[axis];
        }
        std::string axes = spec.axes;
        if (!sizes.empty() && !axes.empty() && axes[0] == 'N') {
            axes.erase(0, 1);
            sizes.erase(sizes.begin());
            steps.erase(steps.begin());
        }
        if (!sizes.empty() && !axes.empty() && axes[0] == 'K') {
            sizes[0] = std::min(sizes[0], count);
        }
        std::size_t total = 1;
        for (const auto size : sizes) {
            total *= size;
        }
        const bool summarised = axes.find('H') != std::string::npos || total > LONGEST;
        text += (text.empty() ? "" : ", ") + quoted(spec.name) + ": " +
                (summarised ? summary(tensor, sizes, spec.exact) : nested(tensor, sizes, 0, 0, steps));
    }
    return text;
}
