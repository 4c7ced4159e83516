#include "picture.hpp"

#include <cctype>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>
#include <sstream>

#include "npy.hpp"

namespace {

bool ends_with(const std::string& text, const std::string& ending) {
    return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

ov::Tensor read_netpbm(const std::string& data) {
    std::vector<std::string> words;  // kind, width, height, largest number
    std::size_t at = 0;
    while (words.size() < 4) {
        if (at >= data.size()) {
            throw PackageError("its header is cut off");
        }
        if (data[at] == '#') {
            at = data.find('\n', at);
            at = at == std::string::npos ? data.size() : at + 1;
            continue;
        }
        std::size_t end = at;
        while (end < data.size() && !std::isspace(static_cast<unsigned char>(data[end]))) {
            ++end;
        }
        if (end > at) {
            words.push_back(data.substr(at, end - at));
        }
        at = end + 1;
    }
    const std::size_t channels = words[0] == "P6" ? 3 : words[0] == "P5" ? 1 : 0;
    const std::size_t width = std::stoul(words[1]), height = std::stoul(words[2]);
    if (channels == 0 || words[3] != "255" || data.size() < at + width * height * channels) {
        throw PackageError("it is not a whole binary picture (P5 or P6) of 8 bits");
    }
    ov::Tensor picture(ov::element::u8, {height, width, channels});
    std::memcpy(picture.data(), data.data() + at, picture.get_byte_size());
    return picture;
}

ov::Tensor read_raw(const std::string& data, const InputSpec& spec) {
    ov::Shape shape;
    for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
        if (spec.shape[axis] < 0 && axis > 0) {
            throw PackageError("the input has an open size, so that bytes alone do not say the shape");
        }
        shape.push_back(axis == 0 ? 1 : static_cast<std::size_t>(spec.shape[axis]));
    }
    ov::Tensor tensor(element_type(spec.dtype), shape);
    if (spec.any_rank || data.size() != tensor.get_byte_size()) {
        throw PackageError("it has " + std::to_string(data.size()) + " bytes, expected " +
                           std::to_string(tensor.get_byte_size()) + " of one image as the input takes it");
    }
    std::memcpy(tensor.data(), data.data(), data.size());
    return tensor;
}

// True for (H,W,C) or (H,W); false for an array that has the input's layout already.
bool is_picture(const ov::Tensor& tensor, const InputSpec& spec) {
    const auto& shape = tensor.get_shape();
    const std::size_t rank = spec.any_rank ? 4 : spec.shape.size();
    if (tensor.get_element_type() != ov::element::u8 || rank != 4 || shape.size() < 2 || shape.size() > 3) {
        return false;
    }
    if (spec.dtype != "uint8" || spec.any_rank || shape.size() == 2 || spec.channels_last) {
        return true;
    }
    for (std::size_t axis = 0; axis < 3; ++axis) {
        if (spec.shape[axis + 1] >= 0 && static_cast<std::size_t>(spec.shape[axis + 1]) != shape[axis]) {
            return true;
        }
    }
    return false;
}

// Turns RGB into gray or gray into RGB, as Pillow does, if the input takes that.
ov::Tensor with_channels(const ov::Tensor& picture, const InputSpec& spec) {
    const auto& shape = picture.get_shape();
    const std::size_t channels = shape.size() == 3 ? shape[2] : 1;
    const auto wanted = spec.any_rank ? -1 : spec.shape[spec.channels_last ? 3 : 1];
    if (!(channels == 1 && wanted == 3) && !(channels == 3 && wanted == 1)) {
        return picture;
    }
    ov::Tensor changed(ov::element::u8, {shape[0], shape[1], static_cast<std::size_t>(wanted)});
    const auto* from = static_cast<const std::uint8_t*>(picture.data());
    auto* to = static_cast<std::uint8_t*>(changed.data());
    for (std::size_t pixel = 0; pixel < shape[0] * shape[1]; ++pixel, from += channels) {
        if (channels == 1) {
            std::memset(to + 3 * pixel, *from, 3);
        } else {
            const std::uint32_t weighted = 19595U * from[0] + 38470U * from[1] + 7471U * from[2];
            to[pixel] = static_cast<std::uint8_t>((weighted + 0x8000U) >> 16U);
        }
    }
    return changed;
}

template <typename T>
void lay_out(const ov::Tensor& picture, const InputSpec& spec, ov::Tensor& target) {
    const auto& shape = picture.get_shape();
    const std::size_t height = shape[0], width = shape[1], channels = shape.size() == 3 ? shape[2] : 1;
    const auto* from = static_cast<const std::uint8_t*>(picture.data());
    auto* to = static_cast<T*>(target.data());
    for (std::size_t row = 0; row < height; ++row) {
        for (std::size_t column = 0; column < width; ++column) {
            for (std::size_t channel = 0; channel < channels; ++channel) {
                const std::size_t source = spec.bgr && channels == 3 ? 2 - channel : channel;
                const std::uint8_t value = from[(row * width + column) * channels + source];
                const std::size_t place = spec.channels_last ? (row * width + column) * channels + channel
                                                             : (channel * height + row) * width + column;
                to[place] = spec.scaled ? static_cast<T>(static_cast<float>(value) / 255.0F) : static_cast<T>(value);
            }
        }
    }
}

ov::Tensor laid_out(const ov::Tensor& picture, const InputSpec& spec) {
    const auto& shape = picture.get_shape();
    const std::size_t channels = shape.size() == 3 ? shape[2] : 1;
    const auto type = element_type(spec.dtype);
    ov::Tensor target(type, spec.channels_last ? ov::Shape{1, shape[0], shape[1], channels}
                                               : ov::Shape{1, channels, shape[0], shape[1]});
    if (type == ov::element::f32) {
        lay_out<float>(picture, spec, target);
    } else if (type == ov::element::f16) {
        lay_out<ov::float16>(picture, spec, target);
    } else if (type == ov::element::f64) {
        lay_out<double>(picture, spec, target);
    } else if (type == ov::element::u8) {
        lay_out<std::uint8_t>(picture, spec, target);
    } else if (type == ov::element::u16) {
        lay_out<std::uint16_t>(picture, spec, target);
    } else {
        throw PackageError("Input '" + spec.name + "' takes " + spec.dtype + ", expected an .npy of that type.");
    }
    return target;
}

}  // namespace

ov::Tensor read_picture(const std::string& path, const InputSpec& spec) {
    if (ends_with(path, ".npy")) {
        return read_npy(path);
    }
    std::ifstream stream(path, std::ios::binary);
    if (!stream) {
        throw PackageError("Picture '" + path + "' cannot be read. Check the path.");
    }
    const std::string data((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    try {
        return ends_with(path, ".ppm") || ends_with(path, ".pgm") ? read_netpbm(data) : read_raw(data, spec);
    } catch (const std::exception& error) {
        throw PackageError("Picture '" + path + "' cannot be used: " + error.what() + ".");
    }
}

void check_fits(const ov::Tensor& tensor, const InputSpec& spec) {
    const auto& shape = tensor.get_shape();
    bool fits = dtype_name(tensor.get_element_type()) == spec.dtype && (spec.any_rank || shape.size() == spec.shape.size());
    std::ostringstream wanted;
    for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
        const auto size = spec.shape[axis];
        fits = fits && (size < 0 || static_cast<std::size_t>(size) == shape[axis]);
        wanted << (axis == 0 ? "" : ",") << (size < 0 ? "?" : std::to_string(size));
    }
    if (!fits) {
        std::ostringstream found;
        found << dtype_name(tensor.get_element_type()) << " " << shape;
        throw PackageError("Array for input '" + spec.name + "' is " + found.str() + ", expected " + spec.dtype + " [" +
                           wanted.str() + "].");
    }
}

ov::Tensor to_input(const ov::Tensor& picture, const InputSpec& spec) {
    ov::Tensor array = is_picture(picture, spec) ? laid_out(with_channels(picture, spec), spec) : picture;
    const std::size_t rank = spec.any_rank ? 4 : spec.shape.size();
    auto shape = array.get_shape();
    if (shape.size() + 1 == rank) {
        shape.insert(shape.begin(), 1);
        array = ov::Tensor(array.get_element_type(), shape, array.data());
    }
    const std::size_t batch = !spec.any_rank && rank > 0 && spec.shape[0] > 0 ? static_cast<std::size_t>(spec.shape[0]) : 1;
    ov::Shape whole = shape;
    const std::size_t times = !shape.empty() && shape[0] == 1 ? batch : 1;
    if (!whole.empty()) {
        whole[0] *= times;
    }
    ov::Tensor repeated(array.get_element_type(), whole);  // a copy, which owns its memory
    for (std::size_t turn = 0; turn < times && array.get_byte_size() != 0; ++turn) {
        std::memcpy(static_cast<char*>(repeated.data()) + turn * array.get_byte_size(), array.data(), array.get_byte_size());
    }
    check_fits(repeated, spec);
    return repeated;
}
