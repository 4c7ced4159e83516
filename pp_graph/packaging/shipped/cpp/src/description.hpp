// What package.hpp, which is generated, says about the model.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Something given to the program does not fit; the message says what was expected.
struct PackageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct InputSpec {
    std::string name;
    std::string dtype;                // NumPy's name
    bool any_rank;                    // the shape says nothing
    std::vector<std::int64_t> shape;  // -1: any size
    bool image;                       // takes the pictures
    bool channels_last;
    bool bgr;
    bool scaled;  // pictures of 8 bits are divided by 255
};

struct ChannelSpec {
    std::string name;
    std::string axes;  // a letter for each axis; empty if unknown
    bool exact;        // must be equal on every machine: decisions, classes, counts
    bool decides;      // true where it is not 0
};

struct OutputSpec {
    std::string name;
    std::string axes;
    bool exact;
    bool counts;                        // how many candidates there are
    std::vector<ChannelSpec> channels;  // outputs along the last axis
};

struct CutoffSpec {
    std::string name;
    std::vector<std::size_t> shape;
};

struct Description {
    std::string model;
    std::string device;
    std::vector<std::pair<std::string, std::string>> properties;
    std::vector<InputSpec> inputs;
    std::vector<OutputSpec> outputs;
    std::vector<CutoffSpec> cutoffs;
    std::vector<std::string> golden;  // names of the golden images
};
