// The plain file server of benchmarks/sandbox.py: what E2B's SDK asks of envd for files, with Go's standard library and
// nothing more. It knows no users, no access tokens, no limits and no metadata.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

type written struct {
	Path string `json:"path"`
	Name string `json:"name"`
	Type string `json:"type"`
}

type entry struct {
	Name         string `json:"name"`
	Type         string `json:"type"`
	Path         string `json:"path"`
	Size         string `json:"size"`
	Mode         uint32 `json:"mode"`
	Permissions  string `json:"permissions"`
	Owner        string `json:"owner"`
	Group        string `json:"group"`
	ModifiedTime string `json:"modifiedTime"`
}

var home string

func main() {
	home = os.Args[1]
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	http.HandleFunc("/files", files)
	http.HandleFunc("/filesystem.Filesystem/ListDir", list)
	panic(http.Serve(listener, nil))
}

func files(answer http.ResponseWriter, request *http.Request) {
	path := absolute(request.URL.Query().Get("path"))
	if request.Method != http.MethodPost {
		http.ServeFile(answer, request, path)
		return
	}
	var err error
	if request.Header.Get("Content-Type") == "application/octet-stream" {
		err = write(path, request.Body)
	} else {
		err = writePart(path, request)
	}
	if err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(answer, []written{{path, filepath.Base(path), "file"}})
}

func writePart(path string, request *http.Request) error {
	parts, err := request.MultipartReader()
	if err != nil {
		return err
	}
	part, err := parts.NextPart()
	if err != nil {
		return err
	}
	return write(path, part)
}

func write(path string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Chown(os.Getuid(), os.Getgid()); err != nil {
		return err
	}
	_, err = file.ReadFrom(content)
	return err
}

func list(answer http.ResponseWriter, request *http.Request) {
	var asked struct{ Path string }
	if err := json.NewDecoder(request.Body).Decode(&asked); err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	folder := absolute(asked.Path)
	found, err := os.ReadDir(folder)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusNotFound)
		return
	}
	entries := []entry{}
	for _, each := range found {
		facts, err := each.Info()
		if err != nil {
			continue
		}
		kind := "FILE_TYPE_FILE"
		if facts.IsDir() {
			kind = "FILE_TYPE_DIRECTORY"
		}
		owner, group := names(facts)
		entries = append(entries, entry{
			facts.Name(), kind, filepath.Join(folder, facts.Name()), strconv.FormatInt(facts.Size(), 10),
			uint32(facts.Mode().Perm()), facts.Mode().String(), owner, group, facts.ModTime().UTC().Format(time.RFC3339Nano),
		})
	}
	reply(answer, map[string]any{"entries": entries})
}

func names(facts os.FileInfo) (string, string) {
	numbers := facts.Sys().(*syscall.Stat_t)
	owner, group := strconv.Itoa(int(numbers.Uid)), strconv.Itoa(int(numbers.Gid))
	if found, err := user.LookupId(owner); err == nil {
		owner = found.Username
	}
	if found, err := user.LookupGroupId(group); err == nil {
		group = found.Name
	}
	return owner, group
}

func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(home, path)
}

func reply(answer http.ResponseWriter, value any) {
	answer.Header().Set("Content-Type", "application/json")
	json.NewEncoder(answer).Encode(value)
}
