// Many requests at once: a throughput session batches what waits; completions come by callback.
// Build: c++ -std=c++17 batch.cpp $(pkg-config --cflags --libs skipstone) -o batch
// Run: batch MODEL.skip
#include <atomic>
#include <cstdio>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <skipstone.h>

namespace {

void check(int32_t status) {
    if (status == SKIPSTONE_OK) return;
    std::string text(skipstone_last_error(nullptr, 0), '\0');
    skipstone_last_error(text.data(), text.size());
    throw std::runtime_error(text.c_str());
}

template <typename T, void (*destroy)(T *)>
struct Destroy {
    void operator()(T *handle) const { destroy(handle); }
};
template <typename T, void (*destroy)(T *)>
using Handle = std::unique_ptr<T, Destroy<T, destroy>>;
using Model = Handle<skipstone_model, skipstone_model_destroy>;
using Options = Handle<skipstone_options, skipstone_options_destroy>;
using Session = Handle<skipstone_session, skipstone_session_destroy>;

Model open_model(const char *path) {
    skipstone_model *model = nullptr;
    check(skipstone_model_open(path, SKIPSTONE_OPEN_MAP, &model));
    return Model(model);
}

Session start(const Model &model) {
    skipstone_options *options = nullptr;
    check(skipstone_options_create(&options));
    Options owner(options);
    check(skipstone_options_set(options, "hint", "throughput"));
    check(skipstone_options_set(options, "max_batch", "4"));
    skipstone_session *session = nullptr;
    check(skipstone_session_create(model.get(), options, nullptr, &session));
    return Session(session);
}

void done(void *user, int32_t status, const skipstone_timing *) {
    static_cast<std::promise<int32_t> *>(user)->set_value(status);
}

}  // namespace

int main(int argc, char **argv) try {
    if (argc != 2) throw std::runtime_error("usage: batch MODEL.skip");
    Model model = open_model(argv[1]);
    Session session = start(model);
    skipstone_tensor_info in{}, out{};
    in.struct_size = out.struct_size = sizeof in;
    check(skipstone_session_input(session.get(), 0, &in));
    check(skipstone_session_output(session.get(), 0, &out));

    constexpr std::size_t requests = 9;
    std::vector<float> image(in.channels * in.height * in.width, 0.25f);
    std::vector<std::vector<float>> logits(requests);
    std::vector<std::promise<int32_t>> ended(requests);
    for (std::size_t i = 0; i < requests; ++i) {
        logits[i].resize(out.channels * out.height * out.width);
        skipstone_input input{sizeof(skipstone_input), SKIPSTONE_F32, SKIPSTONE_NATIVE, 0,
                              image.data(), image.size() * sizeof(float)};
        skipstone_output output{sizeof(skipstone_output), 0, logits[i].data(),
                                logits[i].size() * sizeof(float)};
        check(skipstone_session_submit(session.get(), &input, 1, &output, 1, 0, done, &ended[i]));
    }
    for (auto &request : ended)
        if (request.get_future().get() != SKIPSTONE_OK) throw std::runtime_error("a request failed");
    for (const auto &result : logits)
        if (result != logits[0]) throw std::runtime_error("results differ");
    skipstone_stats stats{};
    stats.struct_size = sizeof stats;
    check(skipstone_session_stats(session.get(), &stats));
    std::printf("%llu images, all results the same\n", (unsigned long long)stats.images);
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "batch: %s\n", error.what());
    return 1;
}
