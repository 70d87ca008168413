package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const certificateFile = "tls-cert-file "

// TLS returns lines of configuration with which servers speak TLS, each on its TLSAddr and with each other, and the
// configuration of clients that trust them.
func TLS(t testing.TB) (config []string, client *tls.Config) {
	t.Helper()
	fatal := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	fatal(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	fatal(err)
	dir := t.TempDir()
	write := func(name, kind string, bytes []byte) string {
		file := filepath.Join(dir, name)
		fatal(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600))
		return file
	}
	certificates := write("certificate.pem", "CERTIFICATE", certificate)
	config = []string{
		certificateFile + certificates, "tls-ca-cert-file " + certificates,
		"tls-key-file " + write("key.pem", "PRIVATE KEY", private),
		"tls-auth-clients no", "tls-replication yes", "tls-cluster yes",
	}
	roots := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(certificate)
	fatal(err)
	roots.AddCert(parsed)
	return config, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

// speaksTLS reports whether a configuration has the lines that TLS returns.
func speaksTLS(config []string) bool {
	return slices.ContainsFunc(config, func(line string) bool { return strings.HasPrefix(line, certificateFile) })
}
