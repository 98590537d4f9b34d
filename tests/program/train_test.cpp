// The program's training commands: texts, options, what is printed, and the bits of a run however it is done.
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "tests/build.h"
#include "tests/program/training_run.h"

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

namespace {

const std::string kTooLarge =
    " --model-dim 8 --layers 1 --hidden-dim 8 --experts 2 --top-k 1 --context 8 --batch 5000 ";

}  // namespace

TEST_CASE("train learns, tells each step as a line of JSON, and writes a package and a report", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const auto ended = program(
        trainCommand(folder, "m.evermind", "--steps 30 --validate-every 10 --lr 0.02 --report " + (folder / "r.html")));
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    CHECK(ended.err.empty());
    const auto told = jsonLines(ended.out);
    REQUIRE(told.size() == 33);
    CHECK(told[0]["step"] == 1);
    CHECK(told[0]["tokens"] == 16);
    CHECK(told[0]["balance"] >= 1);
    CHECK(told[10]["step"] == 10);
    CHECK(told[10]["validation_loss"] > 0);
    CHECK(told[31]["smoothed_loss"] < told[0]["loss"]);
    const std::string html = slurp(folder / "r.html");
    CHECK(html.starts_with("<!doctype html>"));
    CHECK(html.find("http") == std::string::npos);
    CHECK(html.find("Layer 0") != std::string::npos);
    CHECK(program("inspect " + (folder / "m.evermind")).code == 0);
}

TEST_CASE("where stdout is no terminal, train tells its steps as lines of JSON", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const auto ended = program("train --device cpu --text " + (folder / "text") + " -o " + (folder / "m.evermind") +
                               kTinyShape + "--steps 3 --validation 0");
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    CHECK(jsonLines(ended.out).size() == 3);
}

TEST_CASE("a run with budgets has the bits of one without, and either goes on from the other", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    fs::create_directory(folder / "p");
    const std::string shape =
        " --model-dim 8 --layers 2 --hidden-dim 12 --experts 5 --top-k 2 --context 8 --batch 2 --precision exact ";
    const std::string every = "--accumulate 2 --validate-every 5 ", budgets = "--vram-budget 6KiB --host-budget 4KiB ";
    auto train = [&](const std::string& output, const std::string& more) {
        auto ended = program(trainCommand(folder, output, every + more, shape));
        INFO(ended.err);
        REQUIRE(ended.code == 0);
        return ended.out;
    };
    auto losses = [](const std::string& out) {
        std::vector<json> all;
        for (const json& line : jsonLines(out))
            all.push_back(line.contains("loss") ? line["loss"] : line["validation_loss"]);
        return all;
    };
    const std::string plain = train("m.evermind", "--steps 8");
    CHECK_FALSE(jsonLines(plain)[0].contains("pages"));
    const std::string paged = train("p/m.evermind", "--steps 8 " + budgets + "--scratch " + (folder / "."));
    CHECK(losses(paged) == losses(plain));
    const json pages = jsonLines(paged)[0]["pages"];
    CHECK(pages["bytes_written"] > 0);
    CHECK(pages["evictions"] > 0);
    CHECK(pages["pages"] == 4 * 2 * 5);
    const std::string model = slurp(folder / "m.evermind"), state = slurp(folder / "m.evermind.state");
    CHECK((slurp(folder / "p/m.evermind") == model));
    CHECK((slurp(folder / "p/m.evermind.state") == state));

    const std::string traced =
        train("p/m.evermind", "--steps 3 --prefetch off --trace " + (folder / "t.json ") + budgets);
    CHECK(jsonLines(traced).back()["validation_loss"].is_number());
    CHECK(jsonLines(traced)[2]["pages"]["prefetch"]["read"] == 0);
    auto replayed = program("replay --json --budgets 25,50 " + (folder / "t.json"));
    INFO(replayed.err);
    REQUIRE(replayed.code == 0);
    CHECK(json::parse(replayed.out)["pages"] == 4 * 2 * 5);
    CHECK(json::parse(replayed.out)["visits"] > 0);
    train("p/m.evermind", "--steps 5 --resume");
    train("p/m.evermind", "--steps 8 --policy lru --resume " + budgets);
    CHECK((slurp(folder / "p/m.evermind") == model));

    checkRefused(trainCommand(folder, "q.evermind", "--steps 1 --vram-budget 5KiB --host-budget 0", shape),
                 "an expert in training needs 4");
    checkRefused(trainCommand(folder, "q.evermind", "--steps 1 --scratch /nowhere/at/all " + budgets, shape),
                 "/nowhere/at/all");
    CHECK_FALSE(fs::exists(folder / "q.evermind"));
}

TEST_CASE("chunks of micro-batches change no bit of a run, and come and go with --resume", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const std::string every = "--accumulate 2 --validate-every 5 --steps ";
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "12")).code == 0);
    const std::string whole = slurp(folder / "m.evermind"), state = slurp(folder / "m.evermind.state");
    for (const std::string more : {"--max-chunk 7", "--max-chunk 3 --checkpoint-activations"}) {
        CAPTURE(more);
        REQUIRE(program(trainCommand(folder, "m.evermind", every + "12 " + more)).code == 0);
        CHECK((slurp(folder / "m.evermind") == whole));
        CHECK((slurp(folder / "m.evermind.state") == state));
    }
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "5 --max-chunk 7")).code == 0);
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "12 --resume")).code == 0);
    CHECK((slurp(folder / "m.evermind") == whole));
    CHECK(program(trainCommand(folder, "m.evermind", every + "5 --max-chunk -1")).code == 2);
}

TEST_CASE("a run that left steps out goes on with the same bits", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const std::string every = "--accumulate 3 --loss-scaling --rescale-sums --validate-every 100 ";
    const auto whole = program(trainCommand(folder, "m.evermind", every + "--steps 24"));
    REQUIRE(whole.code == 0);
    const auto told = jsonLines(whole.out);
    REQUIRE(told[0]["skipped"] == true);  // three gradients of a window are scaled too often at first
    REQUIRE(told[22]["skipped"] == false);
    const std::string weights = slurp(folder / "m.evermind");
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "--steps 15")).code == 0);
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "--steps 24 --resume")).code == 0);
    CHECK((slurp(folder / "m.evermind") == weights));
}

TEST_CASE("the whole gradient is scaled once, and one that overflows leaves its step out", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    auto told = [&](const std::string& file, const std::string& more) {
        const auto ended =
            program(trainCommand(folder, file, "--validate-every 100 --steps 12 --loss-scaling " + more));
        CAPTURE(ended.err);
        REQUIRE(ended.code == 0);
        return jsonLines(ended.out);
    };
    for (const auto& step : told("once.evermind", "--accumulate 16")) CHECK(step.value("skipped", false) == false);
    const auto often = told("often.evermind", "--accumulate 16 --rescale-sums");
    for (size_t i = 0; i < 5; ++i) CHECK(often[i]["skipped"] == true);
}

TEST_CASE("what a run reads it does not write, and what it writes it does not read", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const std::string text = slurp(folder / "text");
    checkRefused(trainCommand(folder, "text", "--steps 1"), "cannot be the same file");
    checkRefused(trainCommand(folder, "m.evermind", "--steps 1 --report " + (folder / "m.evermind")),
                 "cannot be the same file");
    checkRefused(trainCommand(folder, "m.evermind", "--steps 1 --report " + (folder / "text")),
                 "cannot be the same file");
    checkRefused(trainCommand(folder, "m.evermind", "--steps 1 --trace " + (folder / "text")),
                 "cannot be the same file");
    checkRefused(
        trainCommand(folder, "m.evermind", "--steps 1 --report " + (folder / "r") + " --trace " + (folder / "r")),
        "cannot be the same file");
    CHECK(slurp(folder / "text") == text);
    checkRefused(trainCommand(folder, "m.evermind", "--epochs 1e300"), "--epochs is 1e+300");
    checkRefused(trainCommand(folder, "m.evermind", "--epochs nan"), "--epochs is nan");
    checkRefused(trainCommand(folder, "m.evermind", "--minutes nan"), "--minutes is nan");
    CHECK_FALSE(fs::exists(folder / "m.evermind"));
}

TEST_CASE("a text that is empty, short or not UTF-8 is refused, with the file and the offset", "[program]") {
    Folder folder;
    const auto refused = [&](const std::string& text, const std::string& sentence) {
        writeText(folder / "text", text);
        checkRefused(trainCommand(folder, "m.evermind", "--steps 1"), sentence);
        CHECK(!fs::exists(folder / "m.evermind"));
    };
    refused("", "/text: is empty: it ends at offset 0");
    refused("abcdefg", "/text: ends at offset 7: the 7 tokens to learn from are fewer than a context of 8");
    refused("abcdefghij\x80", "/text: is not UTF-8 at offset 10, byte 0x80");
    writeText(folder / "text", "abcdefgh");
    CHECK(program(trainCommand(folder, "m.evermind", "--steps 1 --validation 0")).code == 0);
}

TEST_CASE("of a folder the regular files are read, and each must be text", "[program]") {
    Folder folder;
    fs::create_directory(folder / "text");
    checkRefused(trainCommand(folder, "m.evermind", "--steps 1"), "/text: has no regular file in it");
    writeText(folder / "text/b", poem());
    fs::create_directory(folder / "text/a");
    fs::create_symlink("b", folder / "text/c");
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 1")).code == 0);
    writeText(folder / "text/d", poem() + "\xc3\xa4\xff\n");
    checkRefused(trainCommand(folder, "m.evermind", "--steps 1"), "/text/d: is not UTF-8 at offset 422, byte 0xff");
    writeText(folder / "text/d", poem() + "\xe2\x82");
    checkRefused(trainCommand(folder, "m.evermind", "--steps 1"), "/text/d: is not UTF-8 at offset 420, byte 0xe2");
}

TEST_CASE("a text codec that lies beside the text is no text, and nothing that is written", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 1 --bpe-merges 9")).code == 0);
    fs::create_directory(folder / "books");
    writeText(folder / "books/poem", poem());
    fs::copy_file(folder / "m.evermind.tokenizer.json", folder / "books/tokenizer.json");
    const std::string beside = "train --device cpu --text " + (folder / "books") + " --codec " + (folder / "books") +
                               " -o " + (folder / "books/n.evermind") + kTinyShape +
                               "--json --final-lr-fraction 1 --steps ";
    for (const char* steps : {"1", "2 --resume"}) {
        const auto ended = program(beside + steps);
        INFO(ended.err);
        CHECK(ended.code == 0);
    }
}

TEST_CASE("generate finds the model's tokenizer, and refuses one of another size", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 2 --bpe-merges 7")).code == 0);
    REQUIRE(fs::exists(folder / "m.evermind.tokenizer.json"));
    const auto written =
        program("generate --device cpu --json --prompt \"A router\" --max-tokens 5 " + (folder / "m.evermind"));
    INFO(written.err);
    REQUIRE(written.code == 0);
    CHECK(json::parse(written.out)["tokens"].size() == 5);
    const auto ids = json::parse(written.out)["tokens"].get<std::vector<uint32_t>>();
    const auto stopped = program("generate --device cpu --json --prompt \"A router\" --max-tokens 5 --stop " +
                                 std::to_string(ids[2]) + " " + (folder / "m.evermind"));
    REQUIRE(stopped.code == 0);
    const auto until = std::find(ids.begin(), ids.end(), ids[2]) + 1;
    CHECK(json::parse(stopped.out)["tokens"].get<std::vector<uint32_t>>() == std::vector(ids.begin(), until));
    checkRefused("generate --prompt A --stop 267 " + (folder / "m.evermind"), "--stop is 267, but ");
    const auto streamed =
        program("generate --device cpu --prompt \"A router\" --max-tokens 5 " + (folder / "m.evermind"));
    CHECK(streamed.out == json::parse(written.out)["text"].get<std::string>() + "\n");

    // A run that fails before its first save leaves the tokenizer to the model that is there.
    CHECK(program(trainCommand(folder, "m.evermind", "--steps 2 --bpe-merges 3", kTooLarge)).code == 3);
    CHECK(program("generate --device cpu --prompt A --max-tokens 2 " + (folder / "m.evermind")).code == 0);
    const auto empty = program("generate --device cpu --prompt= --json --max-tokens 2 " + (folder / "m.evermind"));
    REQUIRE(empty.code == 0);
    CHECK(json::parse(empty.out)["prompt"] == "");

    checkRefused("generate --prompt A --codec bytes " + (folder / "m.evermind"),
                 "m.evermind: vocabSize is 267, but the codec bytes has 256 tokens");
    fs::remove(folder / "m.evermind.tokenizer.json");
    checkRefused("generate --prompt A " + (folder / "m.evermind"), "has a vocabulary of 267 tokens and no ");

    REQUIRE(program(trainCommand(folder, "b.evermind", "--steps 1")).code == 0);
    REQUIRE(program("generate --device cpu --prompt A --max-tokens 3 " + (folder / "b.evermind")).code == 0);
    const auto logits =
        program("logits --device cpu --tokens 65,0,255 --output " + (folder / "l.f32") + " " + (folder / "b.evermind"));
    CHECK(logits.code == 0);
    CHECK(readFloats(folder / "l.f32").size() == 3 * 256);
    checkRefused("logits --device cpu --tokens 256 --output " + (folder / "x.f32") + " " + (folder / "b.evermind"),
                 "256");
    for (const char* list : {"\"\"", "1,,3", "1,", ",1", "1.5", "-1", "12345678901"})
        CHECK(program("logits --device cpu --tokens " + std::string(list) + " --output " + (folder / "x.f32") + " " +
                      (folder / "b.evermind"))
                  .code == 2);
    checkRefused("generate --prompt A " + (folder / "text"), "is neither a package (.evermind) nor an EVL0 file");
}

TEST_CASE("verify compares a language model", "[program]") {
    if (kSanitized) SKIP("every kernel's cases take half a minute");
    Folder folder;
    writeText(folder / "text", poem());
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 1")).code == 0);
    const auto verified = program("verify --device cpu --json " + (folder / "m.evermind"));
    INFO(verified.out + verified.err);
    REQUIRE(verified.code == 0);
    CHECK(json::parse(verified.out)["ok"] == true);
    checkRefused("verify " + (folder / "text"), "text: ");
}

TEST_CASE("a run can start from a model", "[program]") {
    const std::string kNoShape = " --context 16 --batch 2 ";
    Folder folder;
    writeText(folder / "text", poem());
    REQUIRE(program(trainCommand(folder, "old.evermind", "--steps 3 --bpe-merges 20")).code == 0);
    const std::string old = slurp(folder / "old.evermind"), start = "--start " + (folder / "old.evermind");
    const auto logits = [&](const std::string& model) {
        REQUIRE(program("logits --device cpu --tokens 1,2,3,4 --output " + (folder / "l.f32") + " " + (folder / model))
                    .code == 0);
        return slurp(folder / "l.f32");
    };
    const auto run = [&](const std::string& output, const std::string& more) {
        const auto ended = program(trainCommand(folder, output, start + " " + more, kNoShape));
        INFO(ended.err);
        REQUIRE(ended.code == 0);
    };
    run("same.evermind", "--steps 1 --lr 0 --weight-decay 0");
    CHECK((logits("same.evermind") == logits("old.evermind")));
    run("one.evermind", "--steps 4");
    run("two.evermind", "--steps 2");
    run("two.evermind", "--steps 4 --resume");
    CHECK((logits("one.evermind") == logits("two.evermind")));
    CHECK((logits("one.evermind") != logits("old.evermind")));
    CHECK((slurp(folder / "old.evermind") == old));
    REQUIRE(program("generate --device cpu --prompt a --max-tokens 3 " + (folder / "one.evermind")).code == 0);

    CHECK(program(trainCommand(folder, "x.evermind", start + " --model-dim 8", kNoShape)).code == 2);
    checkRefused(trainCommand(folder, "old.evermind", start, kNoShape), "cannot be the same file");
    checkRefused(trainCommand(folder, "x.evermind", start + " --codec bytes", kNoShape),
                 "the codec bytes has 256 tokens");
    checkRefused(trainCommand(folder, "two.evermind", "--steps 5 --resume --bpe-merges 20"), "--start was ");
}

TEST_CASE("numbers that run away end a run with its step, and the checkpoint stays", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const auto ended = program(trainCommand(folder, "m.evermind", "--steps 50 --lr 1e10"));
    CHECK(ended.code == 3);
    checkSentence(ended, "vkmoe: step ");
    checkSentence(ended, "; the checkpoint of step 0 stays");
    CHECK(program("generate " + (folder / "m.evermind") + " --prompt a --max-tokens 2 --device cpu").code == 0);
}

TEST_CASE("what a budget is said to be enough for is trained with it", "[program]") {
    Folder folder;
    std::string text;
    for (int i = 0; i < 20; ++i) text += poem();
    writeText(folder / "text", text);
    const auto trained = [&](uint64_t tokens, const std::string& more) {
        const std::string shape = " --model-dim 32 --layers 2 --batch 1 --context " + std::to_string(tokens);
        return program(trainCommand(folder, "m.evermind", "--steps 1" + more, shape + " "),
                       R"(VKMOE_CLAMP='{"memory_budget":4000000}')");
    };
    for (const char* more : {"", " --checkpoint-activations", " --max-chunk 16"}) {
        const auto refused = trained(4000, more);
        INFO(refused.err);
        REQUIRE(refused.code == 3);
        const auto at = refused.err.find("enough for ");
        REQUIRE(at != std::string::npos);
        const uint64_t enough = std::stoull(refused.err.substr(at + 11));
        CHECK(trained(enough + 1, more).code == 3);
        const auto fits = trained(enough, more);
        INFO(enough << ": " << fits.err);
        CHECK(fits.code == 0);
    }
}

TEST_CASE("options that cannot be are refused", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    for (const char* more : {"--steps 0", "--steps 2 --minutes 1", "--steps 2 --epochs 1", "--steps -1", "--lr many",
                             "--codec bytes --bpe-merges 3", "--save-every 0"})
        CHECK(program(trainCommand(folder, "m.evermind", more)).code == 2);
    for (const char* shape : {" --batch 0 ", " --context 1 ", " --experts 0 ", " --hidden-dim -1 "})
        CHECK(program(trainCommand(folder, "m.evermind", "", shape)).code == 2);
    checkRefused(trainCommand(folder, "m.evermind", "", " --top-k 3 --experts 2 --context 8 "), "topK is 3");
    checkRefused(trainCommand(folder, "m.evermind", "--validation 1"), "--validation is 1");
    checkRefused(trainCommand(folder, "m.evermind", "--lr nan"), "learning_rate");
    checkRefused(trainCommand(folder, "no/m.evermind", ""), "is no folder");
    CHECK(fs::directory_iterator(folder.path())->path().filename() == "text");
    CHECK(program("train --text x").code == 2);
    CHECK(program("generate x").code == 2);
    CHECK(program("logits x --tokens 1,a --output y").code == 2);
}
