#include "samples/vkmoe/train_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/formats/evl0.h"
#include "engine/formats/moe0.h"
#include "samples/vkmoe/lm_file.h"
#include "samples/vkmoe/targets.h"

namespace vkmoe::program {
namespace {

Result<std::optional<LmFile>> openStart(const Context& context, const TrainOptions& options) {
    if (options.start.empty()) return std::optional<LmFile>();
    VKMOE_TRY(model, openLm(options.start, context.compat));
    return std::optional(std::move(model));
}

Result<std::unique_ptr<TextCodec>> makeCodec(const TrainOptions& options, const std::optional<LmFile>& start,
                                             const std::vector<Text>& texts) {
    if (start) return codecFor(options.start, *start, options.codec);
    if (!options.bpe_merges) return openCodec(options.codec.empty() ? "bytes" : options.codec);
    std::vector<std::string_view> corpus;
    for (const Text& text : texts) corpus.push_back(text.training());
    return std::unique_ptr<TextCodec>(
        std::make_unique<BpeCodec>(BpeCodec::train(corpus, {.merges = *options.bpe_merges})));
}

constexpr double kMostSteps = 0x1p53;

// As many steps as it takes to see as many tokens as there are, `epochs` times.
Result<uint64_t> stepsOf(double epochs, const TrainOptions& options, const Corpus& corpus) {
    const double a_step = double(options.context) * options.batch * options.accumulate;
    const double steps = std::max(1.0, std::ceil(epochs * double(corpus.tokens()) / a_step));
    if (steps > kMostSteps)
        return Error{ErrorCode::bad_input,
                     fmt::format("--epochs is {}; over {} tokens these are more than 2^53 steps of {}", epochs,
                                 corpus.tokens(), uint64_t(a_step))};
    return uint64_t(steps);
}

double finalFraction(const TrainOptions& options) {
    return options.final_lr_fraction.value_or(options.minutes ? 1 : 0.1);
}

// A rate that ends where it is needs no end: the schedule is then the same however long the run is.
Schedule scheduleOf(const TrainOptions& options, std::optional<uint64_t> steps) {
    const double fraction = finalFraction(options);
    if (fraction == 1 && options.warmup == 0) return {};
    const uint64_t total = fraction == 1 || !steps ? options.warmup + 1 : std::max(*steps, options.warmup + 1);
    return {ScheduleKind::cosine, options.warmup, total, fraction};
}

Result<LmTrainerOptions> trainerOptions(const Context& context, const TrainOptions& options,
                                        std::optional<uint64_t> steps) {
    VKMOE_TRY(paging, options.paging.training());
    LmTrainerOptions trainer;
    trainer.precision = context.chosenPrecision();
    trainer.adamw.learning_rate = options.learning_rate;
    trainer.adamw.beta1 = options.beta1;
    trainer.adamw.beta2 = options.beta2;
    trainer.adamw.epsilon = options.epsilon;
    trainer.adamw.weight_decay = options.weight_decay;
    trainer.adamw.max_norm = options.max_norm;
    trainer.schedule = scheduleOf(options, steps);
    trainer.aux_weight = float(options.aux_weight);
    trainer.loss_scaling = options.loss_scaling;
    trainer.rescale_sums = options.rescale_sums;
    trainer.checkpoint_activations = options.checkpoint_activations;
    trainer.max_tokens = options.context * options.batch;
    trainer.max_chunk = options.max_chunk;
    trainer.paging = paging;
    return trainer;
}

const std::string kNotGiven = "not given";

Settings settingsOf(const Context& context, const TrainOptions& options, const TrainPlan& plan,
                    const std::string& start, const std::string& texts) {
    Settings settings;
    const auto add = [&](const char* name, const auto& value) {
        settings.emplace_back(name, fmt::format("{}", value));
    };
    add("--start", start);
    add("--model-dim", plan.config.model_dim);
    add("--layers", plan.config.layers);
    add("--conv-kernel", plan.config.conv_kernel);
    add("--hidden-dim", plan.config.hidden_dim);
    add("--experts", plan.config.experts);
    add("--top-k", plan.config.top_k);
    add("--seed", plan.seed);
    add("--context", options.context);
    add("--batch", options.batch);
    add("--accumulate", options.accumulate);
    add("--lr", options.learning_rate);
    add("--warmup", options.warmup);
    add("--final-lr-fraction", finalFraction(options));
    if (plan.steps && finalFraction(options) != 1) add("--steps", *plan.steps);  // which the rate depends on
    add("--beta1", options.beta1);
    add("--beta2", options.beta2);
    add("--eps", options.epsilon);
    add("--weight-decay", options.weight_decay);
    add("--max-norm", options.max_norm);
    add("--aux-weight", options.aux_weight);
    add("--precision", context.precision);
    add("--loss-scaling", options.loss_scaling);
    if (options.loss_scaling) add("--rescale-sums", options.rescale_sums);
    add("--validation", options.validation);
    add("--validate-every", options.validate_every);
    add("--text", texts);
    add("--bpe-merges", options.bpe_merges ? std::to_string(*options.bpe_merges) : kNotGiven);
    add("--codec", plan.codec_tag);
    return settings;
}

Result<void> checkOptions(const TrainOptions& options) {
    const auto bad = [](std::string what) { return Error{ErrorCode::bad_input, std::move(what)}; };
    if (!(options.validation >= 0 && options.validation < 1))
        return bad(fmt::format("--validation is {}; it must be at least 0 and below 1", options.validation));
    if (const double fraction = finalFraction(options); !(fraction >= 0 && fraction <= 1))
        return bad(fmt::format("--final-lr-fraction is {}; it must be 0 to 1", fraction));
    if (options.minutes && finalFraction(options) != 1)
        return bad("--final-lr-fraction below 1 needs --steps or --epochs: --minutes does not tell where it ends");
    for (const auto& [name, value] : {std::pair("--epochs", options.epochs), std::pair("--minutes", options.minutes)})
        if (value && !(*value > 0 && std::isfinite(*value)))
            return bad(fmt::format("{} is {}; it must be above 0 and finite", name, *value));
    if (uint64_t{options.context} * options.batch > UINT32_MAX)
        return bad(
            fmt::format("--context {} times --batch {} is above {}", options.context, options.batch, UINT32_MAX));
    if (double(options.context) * options.batch * options.accumulate > double(UINT32_MAX))
        return bad(fmt::format("--context {} times --batch {} times --accumulate {} is above {}", options.context,
                               options.batch, options.accumulate, UINT32_MAX));
    return {};
}

}  // namespace

std::vector<std::string> codecFiles(const std::string& codec) {
    namespace fs = std::filesystem;
    std::error_code failure;
    if (codec.empty() || codec == "bytes") return {};
    if (!fs::is_directory(codec, failure)) return {codec};
    std::vector<std::string> files;
    for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt"})
        files.push_back((fs::path(codec) / name).string());
    return files;
}

std::vector<std::string> checkpointFiles(const TrainOptions& options) {
    const std::string model = followed(options.output);
    std::vector<std::string> files;
    for (const std::string& name : {model, model + ".state"})
        for (const char* kept : {"", ".previous", ".previous.new"}) files.push_back(name + kept);
    files.insert(files.end(), {tokenizerPath(options.output), previousTokenizerPath(options.output)});
    return files;
}

Result<std::vector<float>> firstParameters(const TrainPlan& plan) {
    return plan.start ? formats::readParameters(*plan.start) : formats::initialLm(plan.config, plan.seed);
}

Result<TrainPlan> makePlan(const Context& context, const TrainOptions& options) {
    VKMOE_CHECK(checkOptions(options));
    VKMOE_TRY(start, openStart(context, options));
    auto written = checkpointFiles(options);
    for (const std::string& path : {options.report, options.paging.trace})
        if (!path.empty()) written.push_back(path);
    auto others = codecFiles(options.codec);
    others.insert(others.end(), written.begin(), written.end());
    if (start) others.insert(others.end(), {options.start, tokenizerPath(options.start)});
    VKMOE_TRY(texts, readTexts(options.text, options.validation, others));
    TrainPlan plan;
    VKMOE_TRY(codec, makeCodec(options, start, texts));
    plan.codec = std::move(codec);
    plan.codec_tag = codecTag(*plan.codec);
    VKMOE_TRY(corpus, Corpus::encode(texts, *plan.codec, options.context));
    plan.corpus = std::move(corpus);
    plan.config = options.model;
    plan.config.vocab_size = plan.codec->idLimit();
    plan.config = start ? start->source.config : completed(plan.config);
    VKMOE_CHECK(validate(plan.config));
    std::string started = kNotGiven;
    if (start) {
        plan.start = std::move(start->source);
        VKMOE_TRY(parameters, firstParameters(plan));
        started = fingerprint(parameters);
    }
    plan.seed = options.seed ? formats::toUint32(*options.seed) : formats::kLmDefaultSeed;
    if (options.steps) {
        plan.steps = *options.steps;
    } else if (!options.minutes) {
        VKMOE_TRY(steps, stepsOf(options.epochs.value_or(1), options, plan.corpus));
        plan.steps = steps;
    }
    VKMOE_TRY(trainer, trainerOptions(context, options, plan.steps));
    plan.trainer = trainer;
    VKMOE_CHECK(validate(plan.trainer.adamw));
    VKMOE_CHECK(validate(plan.trainer.schedule));
    plan.settings = settingsOf(context, options, plan, started, fingerprint(texts));
    return plan;
}

Result<void> checkSame(const std::string& checkpoint, const Settings& saved, const Settings& now) {
    const auto find = [](const Settings& settings, const std::string& name) -> std::string {
        for (const auto& [option, value] : settings)
            if (option == name) return value;
        // Checkpoints without these settings had no other way.
        for (const auto& [option, value] : {std::pair("--beta1", "0.9"), {"--beta2", "0.999"}, {"--eps", "1e-08"}})
            if (option == name) return value;
        const std::pair<std::string, std::string> scaling("--loss-scaling", "true");
        const bool scaled = std::find(settings.begin(), settings.end(), scaling) != settings.end();
        return name == "--rescale-sums" && scaled ? "true" : kNotGiven;
    };
    const auto differs = [&](const std::string& name) {
        return Error{ErrorCode::bad_input, fmt::format("{}: {} was {} and is {} now; --resume needs the same",
                                                       checkpoint, name, find(saved, name), find(now, name))};
    };
    for (const auto& [name, value] : now)
        if (find(saved, name) != value) return differs(name);
    for (const auto& [name, value] : saved)
        if (find(now, name) != value) return differs(name);
    return {};
}

}  // namespace vkmoe::program
