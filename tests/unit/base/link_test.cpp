// Starts: the dynamic loader could protect what is read-only after relocation (RELRO; cmake/Toolchain.cmake).
thread_local volatile bool seen = false;

int main() {
  seen = true;
  return seen ? 0 : 1;
}
