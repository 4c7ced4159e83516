#include "npy.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "description.hpp"

namespace {

struct Kind {
    const char* descr;
    const char* dtype;
    ov::element::Type_t type;
};

// Little-endian, as are the machines that OpenVINO runs on.
const Kind KINDS[] = {
    {"|b1", "bool", ov::element::Type_t::boolean}, {"|u1", "uint8", ov::element::Type_t::u8},
    {"|i1", "int8", ov::element::Type_t::i8},      {"<u2", "uint16", ov::element::Type_t::u16},
    {"<i2", "int16", ov::element::Type_t::i16},    {"<u4", "uint32", ov::element::Type_t::u32},
    {"<i4", "int32", ov::element::Type_t::i32},    {"<u8", "uint64", ov::element::Type_t::u64},
    {"<i8", "int64", ov::element::Type_t::i64},    {"<f2", "float16", ov::element::Type_t::f16},
    {"<f4", "float32", ov::element::Type_t::f32},  {"<f8", "float64", ov::element::Type_t::f64},
};

// The text between two marks behind a key of the header.
std::string value_of(const std::string& header, const std::string& key, char open, char close) {
    const auto at = header.find(key);
    const auto first = at == std::string::npos ? at : header.find(open, at + key.size());
    const auto last = first == std::string::npos ? first : header.find(close, first + 1);
    if (last == std::string::npos) {
        throw PackageError("its header has no " + key);
    }
    return header.substr(first + 1, last - first - 1);
}

ov::Tensor parse(const std::string& data) {
    if (data.size() < 12 || data.compare(0, 6, "\x93NUMPY") != 0) {
        throw PackageError("it is not an .npy file");
    }
    const bool first_version = data[6] == 1;
    std::uint32_t length = 0;
    std::memcpy(&length, data.data() + 8, first_version ? 2 : 4);
    const std::size_t start = (first_version ? 10 : 12) + std::size_t{length};
    const std::string header = data.substr(8, start - 8);
    const std::string descr = value_of(header, "'descr':", '\'', '\'');
    if (header.find("'fortran_order': False") == std::string::npos) {
        throw PackageError("its order is Fortran's, expected C's");
    }
    ov::Shape shape;
    std::stringstream sizes(value_of(header, "'shape':", '(', ')'));
    for (std::string part; std::getline(sizes, part, ',');) {
        if (part.find_first_not_of(' ') != std::string::npos) {
            shape.push_back(std::stoull(part));
        }
    }
    for (const auto& kind : KINDS) {
        if (descr == kind.descr) {
            ov::Tensor tensor(ov::element::Type(kind.type), shape);
            if (data.size() - start != tensor.get_byte_size()) {
                throw PackageError("it is cut off");
            }
            if (tensor.get_byte_size() != 0) {
                std::memcpy(tensor.data(), data.data() + start, tensor.get_byte_size());
            }
            return tensor;
        }
    }
    throw PackageError("its element type " + descr + " is not known");
}

}  // namespace

std::string dtype_name(const ov::element::Type& type) {
    for (const auto& kind : KINDS) {
        if (type == ov::element::Type(kind.type)) {
            return kind.dtype;
        }
    }
    return type.get_type_name();
}

ov::element::Type element_type(const std::string& dtype) {
    for (const auto& kind : KINDS) {
        if (dtype == kind.dtype) {
            return ov::element::Type(kind.type);
        }
    }
    throw PackageError("Element type " + dtype + " is not known to this program.");
}

ov::Tensor read_npy(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) {
        throw PackageError("File '" + path + "' cannot be read. Check the path.");
    }
    const std::string data((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    try {
        return parse(data);
    } catch (const std::exception& error) {
        throw PackageError("File '" + path + "' cannot be used: " + error.what() + ". Write it with numpy.save.");
    }
}

void write_npy(const std::string& path, const ov::Tensor& tensor) {
    std::string descr;
    for (const auto& kind : KINDS) {
        if (tensor.get_element_type() == ov::element::Type(kind.type)) {
            descr = kind.descr;
        }
    }
    std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (";
    for (const auto size : tensor.get_shape()) {
        header += std::to_string(size) + ", ";
    }
    header += "), }";
    header += std::string(63 - (10 + header.size()) % 64, ' ') + '\n';
    const auto length = static_cast<std::uint16_t>(header.size());
    std::ofstream stream(path, std::ios::binary);
    stream << "\x93NUMPY" << '\x01' << '\0' << static_cast<char>(length & 0xff) << static_cast<char>(length >> 8)
           << header;
    stream.write(static_cast<const char*>(tensor.data()), static_cast<std::streamsize>(tensor.get_byte_size()));
    if (!stream) {
        throw PackageError("File '" + path + "' cannot be written. Choose another folder.");
    }
}
