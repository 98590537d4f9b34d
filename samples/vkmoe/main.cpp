// vkmoe: route tokens through mixtures of experts, on any Vulkan device and on the CPU, with the same bits.
//
// Exit codes: 0 ok, 1 a check failed, 2 usage, 3 bad input, 4 no such device or one refused.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/main_train.h"
#include "samples/vkmoe/option_checks.h"
#include "samples/vkmoe/paging_options.h"

using namespace vkmoe::program;

namespace {

std::string isDevice(const std::string& choice) {
    bool numbered = choice.size() > 4 && choice.size() < 9 && choice.starts_with("gpu:") &&
                    choice.find_first_not_of("0123456789", 4) == std::string::npos;
    return choice == "auto" || choice == "cpu" || choice == "gpu" || numbered ? "" : "must be auto, cpu, gpu or gpu:N";
}

// Files that we open must never become stdin, stdout or stderr.
void openStandardStreams() {
    int fd = 0;
    do fd = ::open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2) ::close(fd);
}

// What was printed must have arrived.
int flushed(int exit_code) {
    if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return exit_code;
    return fail({vkmoe::ErrorCode::io, "stdout could not be written"});
}

void addShared(CLI::App& command, Context& context) {
    command.add_option("--device", context.device, "auto, cpu, gpu or gpu:N")->check(isDevice)->capture_default_str();
    command.add_option("--precision", context.precision, "exact or rounded")
        ->check(CLI::IsMember({"exact", "rounded"}))
        ->capture_default_str();
    command.add_flag("--json", context.json, "one JSON object on stdout instead of text");
}

void addRoutes(CLI::App& command, MakeRoutesOptions& options) {
    vkmoe::ZipfOptions& r = options.routes;
    command.add_option("--layers", r.layers, "of the stack")->check(CLI::Range(1u, 1024u))->capture_default_str();
    command.add_option("--experts", r.experts, "of a layer")->check(CLI::Range(1u, 1u << 16))->capture_default_str();
    command.add_option("--top-k", r.top_k, "experts of a token")
        ->check(CLI::Range(1u, 1u << 16))
        ->capture_default_str();
    command.add_option("--tokens", r.tokens, "how many")->check(CLI::Range(0u, 1u << 24))->capture_default_str();
    command.add_option("--zipf", r.zipf, "experts of rank r are drawn in proportion to 1 / r^ZIPF")
        ->check(CLI::Range(0.0, 20.0))
        ->capture_default_str();
    command
        .add_option("--repeat", r.repeat,
                    "how likely an expert is taken from the token before; any other draw may meet one, too")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    command.add_flag("--repeat-whole", r.repeat_whole, "repeat all of a token's experts or none");
    command.add_option("--seed", r.seed)
        ->check(CLI::Validator(
            [](const std::string& text) {
                uint64_t seed = 0;
                auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
                bool fits = error == std::errc() && end == text.data() + text.size();
                return fits ? std::string() : text + " is not one of 0 to 18446744073709551615";
            },
            ""))
        ->capture_default_str();
    command.add_option("-o,--output", options.output, "the routes to write")->required();
    command.add_option("--input", options.input, "also write random tokens: little-endian f32, [tokens, D]")
        ->check(kPath);
    command.add_option("--model-dim", options.model_dim, "D, their width")->check(CLI::Range(1u, 1u << 24));
}

// In the order that CLI11 wants, the last first. It drops an empty value behind "=", which a prompt may be: the two are
// handed over apart.
std::vector<std::string> arguments(int argc, char** argv) {
    std::vector<std::string> reversed;
    for (int i = argc - 1; i > 0; --i) {
        const std::string argument = argv[i];
        const bool is_empty = argument == "--prompt=";
        if (is_empty) reversed.emplace_back();
        reversed.push_back(is_empty ? "--prompt" : argument);
    }
    return reversed;
}

int parseAndRun(int argc, char** argv) {
    CLI::App app{"VkMoE: mixtures of experts on any Vulkan device and on the CPU, with the same bits", "vkmoe"};
    app.require_subcommand(1);
    app.set_version_flag("--version", VKMOE_VERSION);
    Context context;
    int exit_code = kOk;

    auto* devices_command =
        app.add_subcommand("devices", "table of devices: name, type, API, driver, memory, subgroup, probe result");
    auto* verify_command =
        app.add_subcommand("verify", "every kernel, and FILE's layer, on every device against the CPU: bits");
    auto* inspect_command =
        app.add_subcommand("inspect", "what FILE is, its description, tensors and sizes; validates it fully");
    auto* convert_command = app.add_subcommand("convert", "write FILE's layers or language model in another format");
    auto* init_command = app.add_subcommand("init", "write a new layer with seeded random weights");
    auto* routes_command = app.add_subcommand("routes", "write routes as uneven as real ones, for run --routes-in");
    auto* replay_command =
        app.add_subcommand("replay", "what every paging policy would have done with a trace, beside the optimum");
    auto* run_command = app.add_subcommand("run", "route tokens through FILE's layer and run their experts");
    auto* bench_command =
        app.add_subcommand("bench", "verify, then time every kernel against this device's measured peaks");
    auto* demo_command = app.add_subcommand(
        "demo", "the whole job on this machine: a checkpoint, tokens, pictures, a report, the bit comparison");

    std::string file;
    for (auto* command : {devices_command, verify_command, inspect_command, convert_command, init_command, run_command,
                          bench_command, demo_command, routes_command, replay_command})
        addShared(*command, context);
    for (auto* command : {verify_command, inspect_command, convert_command, run_command})
        command->add_flag("--compat", context.compat, "accept what the reference engine accepts, with a warning");

    devices_command->callback([&] { exit_code = devices(context); });
    verify_command->add_option("file", file, "a MoE0 file");
    verify_command->callback([&] { exit_code = verify(context, verify_command->count("--device") > 0, file); });
    inspect_command
        ->add_option("file", file, "a MoE0, EVL0, EVD0, .evermind or layer file, an index of several, or their folder")
        ->required();
    inspect_command->callback([&] { exit_code = inspect(context, file); });

    ConvertOptions convert_options;
    convert_command
        ->add_option("file", convert_options.input,
                     "a MoE0 or layer file, an index of several, or their folder; an EVL0, .evermind or EVD0 file")
        ->required();
    convert_command->add_option("-o,--output", convert_options.output, "the file to write")->required();
    convert_command
        ->add_option("--format", convert_options.format,
                     "moe0 or layer (.safetensors); evl0, evermind or evd0; default: as OUTPUT ends")
        ->check(CLI::IsMember({"moe0", "layer", "evl0", "evermind", "evd0"}));
    convert_command->add_option("--base", convert_options.base, "the language model that an EVD0 delta is of")
        ->check(kPath);
    convert_command->add_flag("--fp16", convert_options.fp16, "write EVL0 as float16");
    convert_command->callback([&] { exit_code = convert(context, convert_options); });

    InitOptions init_options;
    init_command->add_option("--model-dim", init_options.model_dim, "D, width of a token")->capture_default_str();
    init_command->add_option("--hidden-dim", init_options.hidden_dim, "F, width of an expert's hidden layer")
        ->capture_default_str();
    init_command->add_option("--experts", init_options.experts, "E, routed experts")->capture_default_str();
    init_command->add_option("--top-k", init_options.top_k, "experts a token goes to")->capture_default_str();
    init_command->add_option("--seed", init_options.seed, "default: the reference engine's")->check(CLI::Number);
    init_command
        ->add_option("-o,--output", init_options.output,
                     "the layer to write: NAME.safetensors, else MoE0; with --layers the stack")
        ->required();
    auto* fp16 = init_command->add_flag("--fp16", init_options.fp16, "store float16");
    auto* layers = init_command->add_option("--layers", init_options.layers, "write a stack of layers (.safetensors)")
                       ->check(CLI::Range(1, 1024))
                       ->excludes(fp16);
    init_command->add_option("--format", init_options.format, "of a stack's weights: f16, bf16 or f32; default: f16")
        ->check(CLI::IsMember({"f16", "bf16", "f32"}))
        ->needs(layers);
    init_command->callback(
        [&] { exit_code = init_options.layers > 0 ? initStack(context, init_options) : init(context, init_options); });

    MakeRoutesOptions routes_options;
    addRoutes(*routes_command, routes_options);
    routes_command->callback([&] { exit_code = makeRoutes(context, routes_options); });

    ReplayOptions replay_options;
    replay_command->add_option("trace", replay_options.trace, "a trace that run --trace wrote")->required();
    replay_command
        ->add_option("--budgets", replay_options.budgets,
                     "memory: percent of all pages, or bytes (192MiB); default: 5,10,25,50,100")
        ->delimiter(',');
    replay_command->add_option("--html", replay_options.html, "also write the table as an HTML chart")->check(kPath);
    replay_command->callback([&] { exit_code = replay(context, replay_options); });

    RunOptions run_options;
    run_command
        ->add_option("file", run_options.file,
                     "a MoE0 file, or a layer file: safetensors, an index or a folder of shards")
        ->required();
    run_command->add_option("--input", run_options.input, "tokens: little-endian f32, [tokens, D]")->required();
    run_command->add_option("--output", run_options.output, "where the outputs go, in the same form")
        ->check(kPath)
        ->required();
    run_command->add_option("--routes", run_options.routes, "where the routes go, as JSON")->check(kPath);
    run_command->add_option("--routes-in", run_options.routes_in, "routes to force, in the form --routes writes")
        ->check(kPath);
    run_command->add_flag(
        "--pool-routes", run_options.pool_routes,
        "forced routes may have any number of experts, also twice, and those that do not exist are skipped");
    run_command->add_flag("--training", run_options.training,
                          "as in training: noise on the logits, if the file has any");
    run_command->add_option("--batch", run_options.batch, "tokens of a pass: 1 is decoding; default: chosen by speed")
        ->check(CLI::Range(1, 1 << 20));
    addPaging(*run_command, run_options.paging);
    run_command->callback([&] { exit_code = run(context, run_options); });

    BenchOptions bench_options;
    bench_command->add_option("--filter", bench_options.filter, "only rows whose kernel and form contain this");
    bench_command->add_option("--html", bench_options.html, "also write the table as an HTML chart")->check(kPath);
    bench_command->add_option("--tokens", bench_options.tokens)->capture_default_str();
    bench_command->add_option("--experts", bench_options.experts)->capture_default_str();
    bench_command->add_option("--top-k", bench_options.top_k)->capture_default_str();
    bench_command->add_option("--model-dim", bench_options.model_dim)->capture_default_str();
    bench_command->add_option("--hidden-dim", bench_options.hidden_dim)->capture_default_str();
    bench_command->callback([&] { exit_code = bench(context, bench_options); });

    DemoOptions demo_options;
    demo_command->add_option("--report", demo_options.report, "the HTML report to write")
        ->check(kPath)
        ->capture_default_str();
    demo_command->add_option("--tokens", demo_options.tokens)->check(CLI::Range(1, 1 << 20))->capture_default_str();
    demo_command->callback([&] { exit_code = demo(context, demo_options); });

    std::string demo_folder = "/var/tmp";
    auto* demo_page_command =
        app.add_subcommand("demo-page", "a stack with memory for a quarter of its experts, and how fast they are read");
    addShared(*demo_page_command, context);
    demo_page_command->add_option("--folder", demo_folder, "where its file is made, and removed again")
        ->capture_default_str();
    demo_page_command->callback([&] { exit_code = demoPage(context, demo_folder); });

    addTraining(app, context, exit_code, addShared);

    try {
        app.parse(arguments(argc, argv));
    } catch (const CLI::ParseError& error) {
        int code = app.exit(error);
        return code == 0 ? kOk : kUsage;
    }
    return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
    openStandardStreams();
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error with a name
    try {
        return flushed(parseAndRun(argc, argv));
    } catch (const std::bad_alloc&) {
        return fail({vkmoe::ErrorCode::out_of_memory, "the system refused memory"});
    } catch (const std::exception& error) {
        return fail({vkmoe::ErrorCode::internal, error.what()});
    }
}
