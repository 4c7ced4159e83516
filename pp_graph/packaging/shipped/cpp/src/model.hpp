// The packaged model, compiled for a device and for the sizes that come.
#pragma once

#include <map>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "description.hpp"

class Model {
public:
    // An empty device means the one that the model was converted for.
    Model(const Description& description, const std::string& folder, const std::string& device);

    // Changes a cutoff from the next run on: the smallest raw value for which a decision is true, one for each class if
    // the model has several. Throws PackageError if there is none of that name or size.
    void set_cutoff(const std::string& name, const std::vector<float>& values);

    // Runs the model. Inputs that have a value in the package may be left out. Returns the outputs in the model's order.
    // Throws PackageError if an input is missing or does not fit.
    std::vector<ov::Tensor> run(const std::map<std::string, ov::Tensor>& inputs);

    // Precision that the network runs in; of a model that ran at least once.
    std::string precision() const;

    const std::string& device() const { return device_; }

private:
    ov::InferRequest& request_for(const std::vector<ov::Shape>& sizes);

    const Description& description_;
    std::string folder_;
    std::string device_;
    ov::Core core_;
    std::shared_ptr<ov::Model> network_;
    ov::CompiledModel compiled_;
    std::vector<ov::Shape> sizes_;
    ov::InferRequest request_;
    std::map<std::string, ov::Tensor> cutoffs_;
};
