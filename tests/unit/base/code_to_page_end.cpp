// Code that ends three bytes before a page does, last in its program.
asm(".text\n.p2align 12\n.fill 4093, 1, 0\n");
