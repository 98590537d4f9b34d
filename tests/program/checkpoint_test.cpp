// Checkpoints of `vkmoe train`: runs that go on, are killed, interrupted or without room on the disk.
#include <sys/mount.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <csignal>
#include <filesystem>
#include <random>
#include <thread>

#include "tests/build.h"
#include "tests/program/training_run.h"

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

namespace {

const int kKills = kSanitized ? 4 : 20;
const std::string kWide = " --model-dim 32 --layers 1 --hidden-dim 32 --experts 2 --top-k 1 --context 8 --batch 2 ";

}  // namespace

TEST_CASE("a run that goes on has the bits of one that never stopped", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const std::string every = "--validate-every 4 --accumulate 2 --save-every 3 ";
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "--steps 12")).code == 0);
    const std::string whole = slurp(folder / "m.evermind"), state = slurp(folder / "m.evermind.state");
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "--steps 4")).code == 0);
    REQUIRE(program(trainCommand(folder, "m.evermind", every + "--steps 5 --resume")).code == 0);
    const auto last = program(trainCommand(folder, "m.evermind", every + "--steps 12 --resume"));
    INFO(last.err);
    REQUIRE(last.code == 0);
    CHECK(jsonLines(last.out)[0]["step"] == 6);
    CHECK((slurp(folder / "m.evermind") == whole));
    CHECK(slurp(folder / "m.evermind.state").size() == state.size() + 16);  // a validation at step 5
    const auto done = program(trainCommand(folder, "m.evermind", every + "--steps 12 --resume"));
    CHECK(done.code == 0);
    CHECK(done.out.empty());
    CHECK((slurp(folder / "m.evermind") == whole));
}

TEST_CASE("--resume wants the options and the text that the checkpoint has", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    writeText(folder / "m.evermind", "no model of this run");
    checkRefused(trainCommand(folder, "m.evermind", "--steps 2 --resume"), "m.evermind.state: cannot be opened");
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 2")).code == 0);
    checkRefused(trainCommand(folder, "m.evermind", "--steps 1 --resume"),
                 "m.evermind.state: is at step 2, and --steps is 1");
    const auto refused = [&](const std::string& more, const std::string& sentence) {
        checkRefused(trainCommand(folder, "m.evermind", "--steps 3 --resume " + more), "m.evermind.state: " + sentence);
    };
    refused("--lr 0.5", "--lr was 0.003 and is 0.5 now; --resume needs the same");
    refused("--conv-kernel 5", "--conv-kernel was 3 and is 5 now");
    refused("--max-norm 0", "--max-norm was 1 and is 0 now");
    refused("--precision rounded", "--precision was exact and is rounded now");
    refused("--beta2 0.95", "--beta2 was 0.999 and is 0.95 now");
    refused("--bpe-merges 3", "--bpe-merges was not given and is 3 now");
    writeText(folder / "text", poem() + "More.");
    refused("", "--text was 420 bytes in 1 file, hash");
}

TEST_CASE("a damaged checkpoint is refused, or the one before it serves", "[program][hostile]") {
    Folder folder;
    writeText(folder / "text", poem());
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 2 --save-every 1")).code == 0);
    const std::string state = slurp(folder / "m.evermind.state"), weights = slurp(folder / "m.evermind");
    const auto resumed = [&] { return program(trainCommand(folder, "m.evermind", "--steps 2 --resume")); };
    const auto fallsBack = [&](const std::string& sentence) {
        const auto ended = resumed();
        CHECK(ended.code == 0);
        CHECK(jsonLines(ended.out)[0]["step"] == 2);
        checkSentence(ended, sentence);
        CHECK(ended.err.find("going on from") != std::string::npos);
        CHECK((slurp(folder / "m.evermind") == weights));  // step 2 again
        CHECK((slurp(folder / "m.evermind.state") == state));
    };
    std::string flipped = state;
    flipped[flipped.size() / 2] ^= 4;
    writeText(folder / "m.evermind.state", flipped);
    fallsBack("m.evermind.state: CRC-32 is");
    writeText(folder / "m.evermind.state", state.substr(0, 100));
    fallsBack("m.evermind.state: length is 100, the header says");
    writeText(folder / "m.evermind", weights + "x");
    fallsBack("m.evermind: its");

    fs::remove(folder / "m.evermind.state.previous");
    writeText(folder / "m.evermind.state", flipped);
    const auto refused = resumed();
    CHECK(refused.code == 3);
    checkSentence(refused, "m.evermind.state: CRC-32 is");
    fs::remove(folder / "m.evermind.previous");
    writeText(folder / "m.evermind.state", state);
    writeText(folder / "m.evermind", weights + "x");
    const auto mismatched = resumed();
    CHECK(mismatched.code == 3);
    checkSentence(mismatched, "the state's weights have");
}

TEST_CASE("killed at any moment, a run leaves a pair to go on from", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const unsigned seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const std::string every = "--save-every 1 --validate-every 1000000 --steps ";
    uint64_t step = 0;
    for (int kill = 0; kill < kKills; ++kill) {
        CAPTURE(kill, step);
        Running running(trainCommand(folder, "m.evermind", every + "1000000" + (step > 0 ? " --resume" : "")));
        REQUIRE(running.printed("\n"));
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
        running.send(SIGKILL);
        const auto ended = running.wait();
        REQUIRE(ended.code == -SIGKILL);
        const std::string whole = ended.out.substr(0, ended.out.rfind('\n') + 1);
        const uint64_t first = jsonLines(whole).front()["step"];
        CHECK((first == step || first == step + 1));  // the step that was being saved may be lost
        step = lastStep(whole);
    }
    const std::string end = std::to_string(step + 2);
    REQUIRE(program(trainCommand(folder, "m.evermind", every + end + " --resume")).code == 0);
    const std::string weights = slurp(folder / "m.evermind"), state = slurp(folder / "m.evermind.state");
    REQUIRE(program(trainCommand(folder, "m.evermind", "--validate-every 1000000 --steps " + end)).code == 0);
    CHECK((slurp(folder / "m.evermind") == weights));
    CHECK((slurp(folder / "m.evermind.state") == state));
}

TEST_CASE("a run that is killed before its first step goes on, too", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    Running running(trainCommand(folder, "m.evermind", "--steps 1000000 --accumulate 300"));
    for (int i = 0; i < 10000 && !fs::exists(folder / "m.evermind.state"); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    running.send(SIGKILL);
    REQUIRE(running.wait().code == -SIGKILL);
    const auto resumed = [&](const std::string& output) {
        const auto ended = program(trainCommand(folder, output, "--steps 1 --accumulate 300 --resume"));
        INFO(ended.err);
        REQUIRE(ended.code == 0);
        return slurp(folder / output);
    };
    // Killed between the first weights and their state, and before either.
    fs::create_directory(folder / "half");
    fs::create_directory(folder / "none");
    fs::copy_file(folder / "m.evermind", folder / "half/m.evermind");
    const std::string first = resumed("m.evermind");
    CHECK((resumed("half/m.evermind") == first));
    CHECK((resumed("none/m.evermind") == first));
}

// A new run was killed when its weights were there and its state was not.
TEST_CASE("a finished run whose weights have another name gets them back", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const std::string model = folder / "m.evermind";
    REQUIRE(program(trainCommand(folder, "m.evermind", "--steps 3")).code == 0);
    REQUIRE(program(trainCommand(folder, "other.evermind", "--steps 1 --lr 0.1")).code == 0);
    const std::string weights = slurp(model), state = slurp(model + ".state");
    fs::rename(model, model + ".previous");
    fs::rename(folder / "other.evermind", model);
    const auto ended = program(trainCommand(folder, "m.evermind", "--steps 3 --resume"));
    INFO(ended.err);
    CHECK(ended.code == 0);
    CHECK((slurp(model) == weights));
    CHECK((slurp(model + ".state") == state));
}

// A run that cannot save its state leaves the pair of the run before, however often it is tried.
TEST_CASE("a disk that is full for the second run keeps the first one's pair", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    fs::create_directory(folder / "disk");
    const std::string disk = folder / "disk", model = disk + "/m.evermind";
    if (::geteuid() != 0 || ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=4000000") != 0)
        SKIP("no right to mount a small tmpfs");
    const auto trained = [&](const std::string& more) {
        return program(trainCommand(folder, "disk/m.evermind", more, kWide));
    };
    const auto old = trained("--steps 2");
    const std::string weights = slurp(model), state = slurp(model + ".state");
    const std::string room = "size=" + std::to_string(4000000 - fs::space(disk).free + fs::file_size(model) + 30000);
    const bool small = ::mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT, room.c_str()) == 0;
    std::vector<Ended> failed;
    bool kept = true;
    for (int i = 0; i < 3; ++i) {
        failed.push_back(trained("--steps 3 --lr 0.1"));
        kept = kept && slurp(model) == weights && slurp(model + ".state") == state;
    }
    const bool large = ::mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT, "size=4000000") == 0;
    const auto went_on = trained("--steps 3 --resume");
    ::umount(disk.c_str());
    CHECK(old.code == 0);
    REQUIRE((small && large));
    CHECK(kept);
    for (const Ended& ended : failed) {
        CHECK(ended.code == 3);
        checkSentence(ended, "No space left on device");
    }
    INFO(went_on.err);
    CHECK(went_on.code == 0);
    CHECK(lastStep(went_on.out) == 3);
}

TEST_CASE("the trace of a run that went on can be replayed", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    const std::string trace = " --trace " + (folder / "t.json");
    for (const char* more : {"--steps 1", "--steps 2 --resume"}) {
        REQUIRE(program(trainCommand(folder, "m.evermind", more + trace)).code == 0);
        const auto ended = program("replay " + (folder / "t.json"));
        INFO(ended.err);
        CHECK(ended.code == 0);
    }
}

TEST_CASE("an interrupt ends a run after its step, saved", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    for (const int signal : {SIGINT, SIGTERM}) {
        Running running(trainCommand(folder, "m.evermind", "--steps 1000000 --validate-every 1000000"));
        REQUIRE(running.printed("\"step\":2,"));
        running.send(signal);
        const auto ended = running.wait();
        REQUIRE(ended.code == 0);
        const uint64_t step = lastStep(ended.out);
        checkSentence(ended, "interrupted after step " + std::to_string(step) + "; ");
        const std::string steps = "--validate-every 1000000 --steps " + std::to_string(step + 2);
        REQUIRE(program(trainCommand(folder, "m.evermind", steps + " --resume")).code == 0);
        const std::string went_on = slurp(folder / "m.evermind");
        REQUIRE(program(trainCommand(folder, "m.evermind", steps)).code == 0);
        CHECK((slurp(folder / "m.evermind") == went_on));
    }
}

TEST_CASE("a full disk leaves the last good checkpoint, and the sentence says so", "[program]") {
    Folder folder;
    writeText(folder / "text", poem());
    fs::create_directory(folder / "disk");
    if (::geteuid() != 0 || ::mount("tmpfs", (folder / "disk").c_str(), "tmpfs", 0, "size=96k") != 0)
        SKIP("no right to mount a small tmpfs");
    const auto ended = program(trainCommand(folder, "disk/m.evermind", "--steps 9 --save-every 1"));
    for (const char* name : {"m.evermind", "m.evermind.previous", "m.evermind.state", "m.evermind.state.previous"})
        if (fs::exists(fs::path(folder / "disk") / name))
            fs::copy_file(fs::path(folder / "disk") / name, folder / name);
    ::umount((folder / "disk").c_str());
    CHECK(ended.code == 3);
    checkSentence(ended, "No space left on device; the checkpoint of step ");
    const auto resumed = program(trainCommand(folder, "m.evermind", "--steps 9 --resume"));
    INFO(resumed.err);
    CHECK(resumed.code == 0);
    CHECK(lastStep(resumed.out) == 9);
}
