#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "engine/formats/training_state.h"
#include "host/file.h"
#include "samples/vkmoe/checkpoint.h"
#include "samples/vkmoe/interrupts.h"
#include "samples/vkmoe/lm_file.h"
#include "samples/vkmoe/targets.h"
#include "samples/vkmoe/tensor_file.h"
#include "samples/vkmoe/train_display.h"
#include "samples/vkmoe/train_plan.h"
#include "samples/vkmoe/train_report.h"

namespace vkmoe::program {
namespace {

using formats::TrainingState;

// Where a run begins: new parameters, or a checkpoint's.
struct Beginning {
    formats::LmSource source;
    TrainingState state;
    bool resumed = false;
};

Result<Beginning> newRun(const TrainPlan& plan) {
    VKMOE_TRY(parameters, firstParameters(plan));
    VKMOE_TRY(bytes, formats::writeEvl0(plan.config, parameters));
    VKMOE_TRY(source, formats::readEvl0(memorySource("the new model", std::move(bytes))));
    TrainingState state;
    state.options = plan.settings;
    state.sampler = plan.seed;
    state.loads.layers = plan.config.layers;
    state.loads.experts = plan.config.experts;
    return Beginning{std::move(source), std::move(state)};
}

Result<Beginning> oldRun(const TrainPlan& plan, const std::string& path, Checkpoints& checkpoints) {
    VKMOE_TRY(found, checkpoints.find());
    VKMOE_CHECK(checkSame(found.name, found.state.options, plan.settings));
    VKMOE_TRY(model, readLm(memorySource(path, std::move(found.weights)), false));
    const auto wrong = [&](const std::string& what) {
        return Error{ErrorCode::bad_input, fmt::format("{}: {}", found.name, what)};
    };
    if (plan.steps && found.state.step > *plan.steps)
        return wrong(fmt::format("is at step {}, and --steps is {}", found.state.step, *plan.steps));
    if (model.source.config != plan.config)
        return wrong(fmt::format("{} has another shape than the options say", path));
    if (found.state.loads.layers != plan.config.layers || found.state.loads.experts != plan.config.experts)
        return wrong(fmt::format("has loads of {} layers of {} experts, the model has {} of {}",
                                 found.state.loads.layers, found.state.loads.experts, plan.config.layers,
                                 plan.config.experts));
    return Beginning{std::move(model.source), std::move(found.state), true};
}

// The package of a run's weights.
Result<void> pack(const TrainPlan& plan, const std::string& path, std::span<const float> parameters,
                  const std::string& summary, const ByteSink& put) {
    const std::string name = std::filesystem::path(path).stem().string();
    return packLm(name, plan.config, parameters, plan.codec_tag, summary, put);
}

constexpr const char* kNoSteps = "0 steps";

// Whether the file holds what the run saves first: it was stopped before the state was there, too.
Result<bool> isFirstSave(const TrainPlan& plan, const std::string& path) {
    VKMOE_TRY(bytes, readFile(path));
    VKMOE_TRY(parameters, firstParameters(plan));
    std::span<const std::byte> left = bytes;
    bool same = true;
    VKMOE_CHECK(pack(plan, path, parameters, kNoSteps, [&](std::span<const std::byte> piece) -> Result<void> {
        same = same && piece.size() <= left.size() && std::equal(piece.begin(), piece.end(), left.begin());
        if (same) left = left.subspan(piece.size());
        return {};
    }));
    return same && left.empty();
}

// With --resume. A run that ended before its first checkpoint was complete begins again, which gives the same bits.
Result<Beginning> resumedRun(const TrainPlan& plan, const std::string& path, Checkpoints& checkpoints) {
    std::error_code failure;
    if (checkpoints.any()) return oldRun(plan, path, checkpoints);
    if (std::filesystem::exists(path, failure)) {
        VKMOE_TRY(first, isFirstSave(plan, path));
        if (!first) return oldRun(plan, path, checkpoints);  // which says that there is no state
    }
    fmt::print(stderr, "vkmoe: {} is not there: the run begins with its first step\n", checkpoints.statePath());
    return newRun(plan);
}

// The text codec lies beside the model, there before the model is. Another one stays as the previous one, for the model
// that it belongs to.
Result<void> writeTokenizer(const TrainPlan& plan, const std::string& model) {
    const auto* bpe = dynamic_cast<const BpeCodec*>(plan.codec.get());
    if (bpe == nullptr) return {};
    const std::string path = tokenizerPath(model), json = bpe->json();
    auto old = readFile(path);
    const auto bytes = std::as_bytes(std::span(json));
    if (!old) return writeFile(path, bytes);
    if (std::equal(old->begin(), old->end(), bytes.begin(), bytes.end())) return {};
    return writeFileKeeping(path, std::filesystem::path(previousTokenizerPath(model)).filename().string(), bytes);
}

// What can be wrong before a device is looked for.
struct Prepared {
    TrainPlan plan;
    Checkpoints checkpoints;
    Beginning beginning;
};

Result<void> checkTargets(const TrainOptions& options) {
    auto files = checkpointFiles(options);
    std::error_code unknown;
    const std::string text = std::filesystem::is_directory(options.text, unknown) ? "" : options.text;
    const auto codec = codecFiles(options.codec);
    for (const std::string& file : files) {
        std::vector<std::string> read{text, options.start};
        if (file != tokenizerPath(options.output)) read.insert(read.end(), codec.begin(), codec.end());
        VKMOE_CHECK(checkTarget(file, read));
    }
    if (auto offset = checkUtf8(options.output))
        return Error{ErrorCode::bad_input, fmt::format("--output is not UTF-8 at offset {}", *offset)};
    files.push_back(text);
    files.push_back(options.start);
    files.insert(files.end(), codec.begin(), codec.end());
    return checkEachTarget({options.report, options.paging.trace}, std::move(files));
}

Result<Prepared> prepare(const Context& context, const TrainOptions& options) {
    VKMOE_CHECK(checkTargets(options));
    VKMOE_TRY(plan, makePlan(context, options));
    Checkpoints checkpoints(options.output);
    if (!options.resume) checkpoints.keepOld();
    VKMOE_TRY(beginning, options.resume ? resumedRun(plan, options.output, checkpoints) : newRun(plan));
    return Prepared{std::move(plan), std::move(checkpoints), std::move(beginning)};
}

// The trainer has its own.
void forgetMoments(TrainingState& state) {
    state.first = std::vector<float>();
    state.second = std::vector<float>();
}

class TrainRun {
public:
    TrainRun(const Context& context, const TrainOptions& options, Prepared& prepared, LmTrainer trainer,
             std::string device)
        : options_(options),
          plan_(prepared.plan),
          checkpoints_(prepared.checkpoints),
          state_(prepared.beginning.state),
          trainer_(std::move(trainer)),
          device_(std::move(device)),
          sampler_(state_.sampler),
          json_(context.json),
          display_(context.json, state_.step, plan_.steps, options.minutes) {
        if (prepared.beginning.resumed) saved_step_ = state_.step;
        for (float loss : state_.losses) smooth_.add(loss);
    }

    Result<void> run() {
        Interrupts interrupts;
        bool last = plan_.steps && finished();
        const bool mended = checkpoints_.weightsAreForeign() || (last && !checkpoints_.inPlace());
        if (!saved_step_ || mended)
            VKMOE_CHECK(save());  // killed at any moment it can go on, and a full disk shows now
        while (!last && !interrupts.asked()) {
            VKMOE_CHECK(oneStep());
            last = finished();
            if (state_.step % options_.validate_every == 0 || last) VKMOE_CHECK(validate());
            if (state_.step % options_.save_every == 0 && !last) VKMOE_CHECK(save());
        }
        if (saved_step_ != state_.step) VKMOE_CHECK(save());
        VKMOE_CHECK(writeReport());
        VKMOE_CHECK(writeTrainingTrace(options_.paging.trace, trainer_, display_.seconds()));
        tell(!last);
        return {};
    }

private:
    bool finished() const {
        if (plan_.steps) return state_.step >= *plan_.steps;
        return display_.seconds() >= options_.minutes.value_or(0) * 60;
    }

    std::vector<std::vector<Sequence>> draw() {
        std::vector<std::vector<Sequence>> micro_batches(options_.accumulate);
        for (auto& sequences : micro_batches)
            for (uint32_t i = 0; i < options_.batch; ++i)
                sequences.push_back(plan_.corpus.window(sampler_.below(plan_.corpus.windows())));
        return micro_batches;
    }

    Result<void> oneStep() {
        auto done = trainer_.step(draw());
        ++state_.step;
        if (!done) return failed(std::move(done).error());
        if (!std::isfinite(done->loss)) return failed({ErrorCode::bad_input, "the loss is not finite"});
        state_.losses.push_back(float(done->loss));
        state_.loads.add(state_.step, done->expert_tokens);
        display_.step(state_.step, *done, smooth_.add(float(done->loss)), plan_.config.experts, trainer_.paging());
        return {};
    }

    Result<void> validate() {
        if (plan_.corpus.validation().empty()) return {};
        auto loss = trainer_.evaluate(plan_.corpus.validation());
        if (!loss) return failed(std::move(loss).error());
        state_.validations.push_back({state_.step, *loss});
        display_.validation(state_.step, *loss);
        return {};
    }

    std::string summary() const {
        if (state_.losses.empty()) return kNoSteps;
        return fmt::format(
            "{} steps of {} tokens, training loss {:.4f}{}", state_.step,
            uint64_t{options_.context} * options_.batch * options_.accumulate, smooth_.value(),
            state_.validations.empty() ? "" : fmt::format(", validation loss {:.4f}", state_.validations.back().loss));
    }

    Result<void> save() {
        if (!saved_step_ || !checkpoints_.inPlace()) VKMOE_CHECK(writeTokenizer(plan_, options_.output));
        VKMOE_TRY(now, trainer_.state());
        state_.optimizer_step = now.step;
        state_.loss_scale = now.loss_scale;
        state_.loss_streak = now.loss_streak;
        state_.sampler = sampler_.state();
        state_.first = std::move(now.first);
        state_.second = std::move(now.second);
        auto saved = checkpoints_.save(
            [&](const ByteSink& put) { return pack(plan_, options_.output, now.parameters, summary(), put); }, state_);
        forgetMoments(state_);
        if (!saved) return notSaved(saved.error());
        saved_step_ = state_.step;
        return {};
    }

    Result<void> writeReport() const {
        if (options_.report.empty()) return {};
        return writeText(options_.report, trainReportHtml({options_.output, device_, summary(), plan_.config, state_}));
    }

    // Of numbers that ran away, at a step or at its validation: when, and what is left.
    Error failed(Error error) const {
        if (error.code == ErrorCode::bad_input)
            error.detail = fmt::format("step {}: {}; the checkpoint of step {} stays", state_.step, error.detail,
                                       saved_step_.value_or(0));
        return error;
    }

    Error notSaved(Error error) const {
        error.detail += saved_step_ ? fmt::format("; the checkpoint of step {} stays", *saved_step_)
                                    : std::string("; no checkpoint was written");
        return error;
    }

    void tell(bool interrupted) {
        display_.clear();
        if (interrupted)
            fmt::print(stderr, "vkmoe: interrupted after step {}; {} is saved, and --resume goes on from it\n",
                       state_.step, options_.output);
        if (json_) return;
        if (auto paging = trainer_.paging()) fmt::print("{}", pagingPicture(*paging));
        if (!interrupted) fmt::print("{}: {}, on {}\n", options_.output, summary(), device_);
    }

    const TrainOptions& options_;
    const TrainPlan& plan_;
    Checkpoints& checkpoints_;
    TrainingState state_;
    LmTrainer trainer_;
    std::string device_;
    Sampler sampler_;
    SmoothLoss smooth_;
    bool json_;
    TrainDisplay display_;
    std::optional<uint64_t> saved_step_;
};

Result<LmTrainer> makeTrainer(Engine& engine, const TrainPlan& plan, const Beginning& beginning) {
    LmTrainerOptions options = plan.trainer;
    if (beginning.resumed) options.max_tokens = 0;  // the activations come when the weights have found their places
    VKMOE_TRY(trainer, LmTrainer::create(engine, beginning.source, options));
    if (!beginning.resumed) return trainer;
    VKMOE_TRY(parameters, formats::readParameters(beginning.source));
    const TrainingState& from = beginning.state;
    VKMOE_CHECK(trainer.restore(
        {std::move(parameters), from.first, from.second, from.optimizer_step, from.loss_scale, from.loss_streak}));
    return trainer;
}

Result<void> trainOn(const Context& context, const TrainOptions& options, Prepared& run, Engine& engine) {
    const TrainPlan& plan = run.plan;
    VKMOE_TRY(trainer, makeTrainer(engine, plan, run.beginning));
    run.beginning.source = {};  // the trainer has copies of all that
    forgetMoments(run.beginning.state);
    const std::string device = engine.device().info().name;
    if (!context.json) {
        fmt::print("{} parameters, {} tokens of text, {} tokens a step, on {}{}\n", parameterCount(plan.config),
                   plan.corpus.tokens(), uint64_t{options.context} * options.batch * options.accumulate, device,
                   run.beginning.resumed ? fmt::format(", from step {} on", run.beginning.state.step) : "");
        fmt::print("{}\n", trainer.memory(options.context * options.batch).shown());
    }
    auto done = TrainRun(context, options, run, std::move(trainer), device).run();
    // No other device can take over: what the run begins with is gone.
    if (!done && done.error().code == ErrorCode::refused_device)
        return Error{ErrorCode::device_lost, done.error().detail};
    return done;
}

}  // namespace

int train(const Context& context, const TrainOptions& options) {
    auto prepared = prepare(context, options);
    if (!prepared) return fail(prepared.error());
    return context.runOnDevice([&](Engine& engine) { return trainOn(context, options, *prepared, engine); });
}

}  // namespace vkmoe::program
