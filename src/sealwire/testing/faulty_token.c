/* A PKCS#11 library that passes everything on to another one, and fails C_DecryptInit as a file says.
 * The file holds a CK_RV in hex (always answered), "once <hex>" (answered once, the file is removed), "hang" or "die". */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_RV;
/* CK_FUNCTION_LIST: a version (2 bytes, padded to a pointer) and 68 function pointers; C_DecryptInit is number 33. */
#define FUNCTIONS 68
#define DECRYPT_INIT 33
struct list { unsigned char version[sizeof(void *)]; void *call[FUNCTIONS]; };

static struct list mine;
static CK_RV (*decrypt_init)(unsigned long, void *, unsigned long);

static CK_RV faulty_decrypt_init(unsigned long session, void *mechanism, unsigned long key)
{
    char text[64] = "";
    FILE *orders = fopen(ORDERS, "r");
    if (orders) {
        size_t count = fread(text, 1, sizeof text - 1, orders);
        text[count] = 0;
        fclose(orders);
        if (!strncmp(text, "once ", 5)) {
            unlink(ORDERS);
            return strtoul(text + 5, 0, 16);
        }
        if (!strncmp(text, "hang", 4))
            for (;;) pause();
        if (!strncmp(text, "die", 3))
            abort();
        return strtoul(text, 0, 16);
    }
    return decrypt_init(session, mechanism, key);
}

CK_RV C_GetFunctionList(struct list **out)
{
    void *library = dlopen(BEHIND, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 5; /* CKR_GENERAL_ERROR */
    CK_RV (*get)(struct list **) = (CK_RV (*)(struct list **))dlsym(library, "C_GetFunctionList");
    struct list *theirs;
    CK_RV answer = get(&theirs);
    if (answer)
        return answer;
    mine = *theirs;
    decrypt_init = (CK_RV (*)(unsigned long, void *, unsigned long))mine.call[DECRYPT_INIT];
    mine.call[DECRYPT_INIT] = (void *)faulty_decrypt_init;
    *out = &mine;
    return 0;
}
