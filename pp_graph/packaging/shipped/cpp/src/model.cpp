#include "model.hpp"

#include <cstring>
#include <fstream>

#include "npy.hpp"
#include "picture.hpp"

namespace {

// NumPy has no bfloat16, and neither has .npy.
ov::Tensor widened(const ov::Tensor& tensor) {
    ov::Tensor copy(tensor.get_element_type() == ov::element::bf16 ? ov::element::f32 : tensor.get_element_type(),
                    tensor.get_shape());
    if (tensor.get_element_type() == ov::element::bf16) {
        const auto* from = static_cast<const ov::bfloat16*>(tensor.data());
        auto* to = static_cast<float*>(copy.data());
        for (std::size_t place = 0; place < tensor.get_size(); ++place) {
            to[place] = from[place];
        }
    } else if (tensor.get_byte_size() != 0) {
        std::memcpy(copy.data(), tensor.data(), tensor.get_byte_size());
    }
    return copy;
}

// OpenVINO's errors have the reason in the last of several lines.
std::string last_line(const std::string& text) {
    const auto end = text.find_last_not_of(" \n");
    const auto start = end == std::string::npos ? end : text.find_last_of('\n', end);
    return text.substr(start == std::string::npos ? 0 : start + 1, end - start);
}

}  // namespace

Model::Model(const Description& description, const std::string& folder, const std::string& device)
    : description_(description), folder_(folder), device_(device.empty() ? description.device : device) {
    const std::string path = folder + "/" + description.model;
    if (!std::ifstream(path)) {
        throw PackageError("Model '" + path + "' cannot be read. Name the folder of the package with --package.");
    }
    network_ = core_.read_model(path);
}

void Model::set_cutoff(const std::string& name, const std::vector<float>& values) {
    std::string known;
    for (const auto& cutoff : description_.cutoffs) {
        known += (known.empty() ? "" : ", ") + cutoff.name;
        if (cutoff.name != name) {
            continue;
        }
        ov::Tensor tensor(ov::element::f32, cutoff.shape);
        if (values.size() != 1 && values.size() != tensor.get_size()) {
            throw PackageError("Cutoff '" + name + "' is given " + std::to_string(values.size()) +
                               " values, expected 1 or " + std::to_string(tensor.get_size()) + ".");
        }
        for (std::size_t place = 0; place < tensor.get_size(); ++place) {
            tensor.data<float>()[place] = values[values.size() == 1 ? 0 : place];
        }
        cutoffs_[name] = tensor;
        sizes_.clear();  // a new request takes it
        return;
    }
    throw PackageError("Cutoff '" + name + "' is not in the model, expected one of: " +
                       (known.empty() ? "none: it was not converted with --thresholds runtime" : known) + ".");
}

ov::InferRequest& Model::request_for(const std::vector<ov::Shape>& sizes) {
    if (sizes == sizes_ && !sizes.empty()) {
        return request_;
    }
    // OpenVINO is faster with fixed sizes than with open ones.
    auto network = network_->clone();
    std::map<std::size_t, ov::PartialShape> shapes;
    for (std::size_t place = 0; place < sizes.size(); ++place) {
        shapes[place] = sizes[place];
    }
    ov::AnyMap properties;
    if (device_ == description_.device) {
        properties = {description_.properties.begin(), description_.properties.end()};
    } else {
        properties.emplace(ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
        try {
            // A device without f32, such as an NPU, refuses the hint.
            for (const auto& each : core_.get_property(device_, ov::device::capabilities)) {
                if (each == ov::device::capability::FP32) {
                    properties.emplace(ov::hint::inference_precision(ov::element::f32));
                }
            }
        } catch (const ov::Exception&) {  // a device made of several, such as AUTO
        }
    }
    try {
        network->reshape(shapes);
        compiled_ = core_.compile_model(network, device_, properties);
    } catch (const ov::Exception& error) {
        std::string devices;
        for (const auto& each : core_.get_available_devices()) {
            devices += (devices.empty() ? "" : ", ") + each;
        }
        throw PackageError("The model cannot be compiled for device '" + device_ + "' and these sizes. Devices of this "
                           "machine (--device): " + devices + ". OpenVINO says: " + last_line(error.what()));
    }
    request_ = compiled_.create_infer_request();
    for (auto& state : request_.query_state()) {
        const auto found = cutoffs_.find(state.get_name());
        if (found != cutoffs_.end()) {
            state.set_state(found->second);
        }
    }
    sizes_ = sizes;
    return request_;
}

std::vector<ov::Tensor> Model::run(const std::map<std::string, ov::Tensor>& inputs) {
    std::vector<ov::Tensor> fed;
    std::vector<ov::Shape> sizes;
    for (std::size_t place = 0; place < description_.inputs.size(); ++place) {
        const auto& spec = description_.inputs[place];
        const auto given = inputs.find(spec.name);
        const std::string value = folder_ + "/defaults/input_" + std::to_string(place) + ".npy";
        if (given == inputs.end() && !std::ifstream(value)) {
            throw PackageError("Input '" + spec.name + "' has no array. Give one with --input " + spec.name + "=FILE.npy.");
        }
        fed.push_back(given == inputs.end() ? read_npy(value) : given->second);
        check_fits(fed.back(), spec);
        sizes.push_back(fed.back().get_shape());
    }
    auto& request = request_for(sizes);
    for (std::size_t place = 0; place < fed.size(); ++place) {
        request.set_input_tensor(place, fed[place]);
    }
    request.infer();
    std::vector<ov::Tensor> outputs;
    for (std::size_t place = 0; place < description_.outputs.size(); ++place) {
        outputs.push_back(widened(request.get_output_tensor(place)));
    }
    return outputs;
}

std::string Model::precision() const {
    try {
        return compiled_.get_property(ov::hint::inference_precision).get_type_name();
    } catch (const ov::Exception&) {  // a device that has no choice, such as an NPU
        return "its own precision";
    }
}
