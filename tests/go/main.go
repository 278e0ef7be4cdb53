// Verify reads a mirror of an audit log with the Go project's own sumdb packages, unmodified:
// the note, every tile against the signed root, every entry against its leaf, and proofs in a file.
//
//	verify KEY FOLDER PROOFS [WITNESS KEY]
package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// folder is a tlog.TileReader over files under their tlog-tiles paths, which name no height.
type folder string

func (f folder) path(t tlog.Tile) string {
	return filepath.Join(string(f), "tile", strings.TrimPrefix(t.Path(), "tile/8/"))
}

func (f folder) Height() int { return height }

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, t := range tiles {
		content, err := os.ReadFile(f.path(t))
		if err != nil {
			return nil, err
		}
		data = append(data, content)
	}
	return data, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

// witness is a note.Verifier for cosignature/v1.
type witness struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

func (w witness) Name() string    { return w.name }
func (w witness) KeyHash() uint32 { return w.id }
func (w witness) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), text)
	return ed25519.Verify(w.key, []byte(signed), sig[8:])
}

func witnessOf(line string) (witness, error) {
	parts := strings.SplitN(line, "+", 3)
	id, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return witness{}, err
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || raw[0] != 4 {
		return witness{}, errors.New("not a witness's key")
	}
	return witness{parts[0], uint32(id), raw[1:]}, nil
}

type proofs struct {
	Inclusion []struct {
		LeafIndex int64    `json:"leaf_index"`
		TreeSize  int64    `json:"tree_size"`
		Hashes    []string `json:"hashes"`
	} `json:"inclusion"`
	Consistency []struct {
		LeafIndex int64    `json:"leaf_index"`
		TreeSize  int64    `json:"tree_size"`
		Hashes    []string `json:"hashes"`
	} `json:"consistency"`
}

func hashes(texts []string) (found []tlog.Hash, err error) {
	for _, text := range texts {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != tlog.HashSize {
			return nil, errors.New("not a hash")
		}
		found = append(found, tlog.Hash(raw))
	}
	return found, nil
}

func run(key, dir, proofFile string, witnesses []string) error {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return err
	}
	list := []note.Verifier{verifier}
	for _, line := range witnesses {
		w, err := witnessOf(line)
		if err != nil {
			return err
		}
		list = append(list, w)
	}
	content, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return err
	}
	signed, err := note.Open(content, note.VerifierList(list...))
	if err != nil {
		return err
	}
	if len(signed.Sigs) != len(list) {
		return fmt.Errorf("%d of %d keys signed", len(signed.Sigs), len(list))
	}
	lines := strings.Split(signed.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return err
	}

	tiles := folder(dir)
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles)
	leaves := make([]tlog.Hash, 0, size)
	for first := int64(0); first < size; first += 1 << height {
		var indexes []int64
		for i := first; i < min(size, first+1<<height); i++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, i))
		}
		found, err := reader.ReadHashes(indexes)
		if err != nil {
			return err
		}
		leaves = append(leaves, found...)
		width := len(indexes)
		path := tiles.path(tlog.Tile{H: height, L: 0, N: first >> height, W: width})
		bundle, err := os.ReadFile(strings.Replace(path, "/tile/0/", "/tile/entries/", 1))
		if err != nil {
			return err
		}
		for i := 0; i < width; i++ {
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			if tlog.RecordHash(bundle[2:end]) != found[i] {
				return fmt.Errorf("entry %d is not the one in the tree", first+int64(i))
			}
			bundle = bundle[end:]
		}
		if len(bundle) != 0 {
			return errors.New("a bundle is longer than its tile")
		}
	}

	var given proofs
	content, err = os.ReadFile(proofFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, &given); err != nil {
		return err
	}
	for _, p := range given.Inclusion {
		path, err := hashes(p.Hashes)
		if err != nil {
			return err
		}
		head, err := tlog.TreeHash(p.TreeSize, reader)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(path, p.TreeSize, head, p.LeafIndex, leaves[p.LeafIndex]); err != nil {
			return fmt.Errorf("inclusion of %d in %d: %w", p.LeafIndex, p.TreeSize, err)
		}
	}
	for _, p := range given.Consistency {
		path, err := hashes(p.Hashes)
		if err != nil {
			return err
		}
		older, err := tlog.TreeHash(p.LeafIndex, reader)
		if err != nil {
			return err
		}
		newer, err := tlog.TreeHash(p.TreeSize, reader)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(path, p.TreeSize, newer, p.LeafIndex, older); err != nil {
			return fmt.Errorf("consistency of %d and %d: %w", p.LeafIndex, p.TreeSize, err)
		}
	}
	fmt.Printf("%d entries, %d proofs\n", size, len(given.Inclusion)+len(given.Consistency))
	return nil
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
