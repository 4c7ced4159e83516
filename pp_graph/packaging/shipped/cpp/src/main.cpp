// Prints one JSON object for each picture, or checks the package on this machine.
// Exit status: 0 done, 1 the check failed, 2 something given does not fit.

#include <cmath>
#include <filesystem>
#include <iostream>
#include <set>
#include <sstream>

#include "check.hpp"
#include "npy.hpp"
#include "package.hpp"
#include "picture.hpp"
#include "results.hpp"

namespace {

const char* const USAGE =
    "Usage: predict [options] PICTURE...\n"
    "       predict --check [options]\n\n"
    "A picture is an .npy (height, width, channels) of uint8 in RGB, or an array as the input takes it; a binary .ppm or\n"
    ".pgm; or a file with the bytes of the input's tensor. It has the size that the input takes.\n\n"
    "  --device DEVICE                OpenVINO device\n"
    "  --cutoff NAME=VALUE[,VALUE...] smallest raw value for which a decision is true (nan: never)\n"
    "  --input NAME=FILE.npy          array of another input\n"
    "  --save DIR                     also write each output as PICTURE.OUTPUT.npy\n"
    "  --check                        compare the golden images with their results\n"
    "  --near SHARE                   allowed difference of numbers in the check\n"
    "  --pixels SHARE                 allowed share of differing pixels in the check\n"
    "  --package DIR                  folder of the package\n";

struct Options {
    std::vector<std::string> pictures;
    std::string device, save, package = PACKAGE_FOLDER;
    std::vector<std::pair<std::string, std::string>> cutoffs, inputs;
    bool check = false;
    double near = -1, pixels = 0;
};

double number(const std::string& text) {
    std::size_t end = 0;
    double value = 0;
    try {
        value = std::stod(text, &end);
    } catch (const std::exception&) {
        end = 0;
    }
    if (end == 0 || end != text.size()) {
        throw PackageError("'" + text + "' is not a number.");
    }
    return value;
}

std::pair<std::string, std::string> named(const std::string& text) {
    const auto at = text.find('=');
    if (at == std::string::npos || at == 0 || at + 1 == text.size()) {
        throw PackageError("'" + text + "' is not NAME=VALUE.");
    }
    return {text.substr(0, at), text.substr(at + 1)};
}

Options parse(const std::vector<std::string>& words) {
    Options options;
    for (std::size_t at = 0; at < words.size(); ++at) {
        std::string name = words[at];
        if (name.rfind("--", 0) != 0) {
            options.pictures.push_back(name);
            continue;
        }
        if (name == "--check") {
            options.check = true;
            continue;
        }
        std::string value;
        const auto equals = name.find('=');
        if (equals != std::string::npos) {
            value = name.substr(equals + 1);
            name = name.substr(0, equals);
        } else if (at + 1 < words.size()) {
            value = words[++at];
        }
        if (value.empty()) {
            throw PackageError("Option " + name + " has no value.");
        }
        if (name == "--device") options.device = value;
        else if (name == "--save") options.save = value;
        else if (name == "--package") options.package = value;
        else if (name == "--cutoff") options.cutoffs.push_back(named(value));
        else if (name == "--input") options.inputs.push_back(named(value));
        else if (name == "--near") options.near = number(value);
        else if (name == "--pixels") options.pixels = number(value);
        else throw PackageError("Option " + name + " is not known.\n\n" + USAGE);
    }
    if (options.pictures.empty() != options.check) {
        throw PackageError(options.check ? "--check takes no pictures." : USAGE);
    }
    return options;
}

void save(const std::string& folder, const std::string& picture, const std::vector<ov::Tensor>& results) {
    std::filesystem::create_directories(folder);
    for (std::size_t place = 0; place < results.size(); ++place) {
        std::string name = DESCRIPTION.outputs[place].name;
        for (auto& each : name) {
            each = each == '/' ? '_' : each;
        }
        const auto stem = std::filesystem::path(picture).stem().string();
        write_npy(folder + "/" + stem + "." + name + ".npy", results[place]);
    }
}

int run(const Options& options) {
    Model model(DESCRIPTION, options.package, options.device);
    for (const auto& [name, text] : options.cutoffs) {
        std::vector<float> values;
        std::stringstream parts(text);
        for (std::string part; std::getline(parts, part, ',');) {
            values.push_back(static_cast<float>(number(part)));
        }
        model.set_cutoff(name, values);
    }
    if (options.check) {
        return check(model, DESCRIPTION, options.package, options.near, options.pixels) ? 0 : 1;
    }
    std::map<std::string, ov::Tensor> inputs;
    for (const auto& [name, file] : options.inputs) {
        inputs[name] = read_npy(file);
    }
    std::set<std::string> stems;
    for (const auto& picture : options.pictures) {
        if (!stems.insert(std::filesystem::path(picture).stem().string()).second && !options.save.empty()) {
            throw PackageError("Two pictures have the same name, expected others for --save. Predict one at a time.");
        }
    }
    for (const auto& picture : options.pictures) {
        for (const auto& spec : DESCRIPTION.inputs) {
            if (spec.image) {
                inputs[spec.name] = to_input(read_picture(picture, spec), spec);
            }
        }
        const auto results = model.run(inputs);
        if (!options.save.empty()) {
            save(options.save, picture, results);
        }
        std::cout << "{\"picture\": " << quoted(picture) << ", " << as_json(results, DESCRIPTION) << "}" << std::endl;
    }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        const std::vector<std::string> arguments(words + 1, words + count);
        if (!arguments.empty() && (arguments[0] == "--help" || arguments[0] == "-h")) {
            std::cout << USAGE;
            return 0;
        }
        return run(parse(arguments));
    } catch (const std::exception& error) {
        std::cerr << "Error: " << error.what() << std::endl;
        return 2;
    }
}
