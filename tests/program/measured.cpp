// measured FILE COMMAND...: runs a command, writes its CPU seconds and its largest memory in KiB to FILE, and ends as
// it did. A program of its own, because a child inherits the largest memory of who starts it.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const pid_t child = fork();
    if (child == 0) {
        execv(argv[2], argv + 2);
        _exit(127);
    }
    int status = 0;
    struct rusage used = {};
    if (child < 0 || wait4(child, &status, 0, &used) != child) return 126;
    const double seconds = double(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                           double(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    std::FILE* file = std::fopen(argv[1], "w");
    if (file == nullptr) return 126;
    std::fprintf(file, "%.3f %ld\n", seconds, used.ru_maxrss);
    std::fclose(file);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
