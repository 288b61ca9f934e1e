// certificates makes what the parts of a test cluster prove themselves with: an authority, a key for
// service accounts, and a certificate for each name on standard input.
//
//	{"folder": "pki", "leaves": [{"file": "admin", "name": "admin", "groups": ["system:masters"], "hosts": []}]}
//
// Everything lies in the folder as PEM: ca.crt, service-accounts.key, FILE.crt and FILE.key.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const validFor = 365 * 24 * time.Hour

type leaf struct {
	File   string
	Name   string
	Groups []string
	Hosts  []string
}

type order struct {
	Folder string
	Leaves []leaf
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func write(path, kind string, bytes []byte) {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		log.Fatal(err)
	}
}

func newKey(path string) *ecdsa.PrivateKey {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	write(path, "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key)))
	return key
}

func template(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          must(rand.Int(rand.Reader, big.NewInt(1<<62))),
		Subject:               subject,
		NotBefore:             time.Now().Add(-time.Hour), // clocks that run a little behind
		NotAfter:              time.Now().Add(validFor),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func (l leaf) certificate() *x509.Certificate {
	made := template(pkix.Name{CommonName: l.Name, Organization: l.Groups})
	made.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range l.Hosts {
		if address := net.ParseIP(host); address != nil {
			made.IPAddresses = append(made.IPAddresses, address)
		} else {
			made.DNSNames = append(made.DNSNames, host)
		}
	}
	return made
}

func main() {
	log.SetFlags(0)
	var wanted order
	if err := json.NewDecoder(os.Stdin).Decode(&wanted); err != nil {
		log.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(wanted.Folder, name) }
	authority := template(pkix.Name{CommonName: "flopwise-test-authority"})
	authority.IsCA = true
	authority.KeyUsage |= x509.KeyUsageCertSign
	// Its key signs here and is forgotten: nobody can make further certificates.
	signer := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	signed := must(x509.CreateCertificate(rand.Reader, authority, authority, signer.Public(), signer))
	write(in("ca.crt"), "CERTIFICATE", signed)
	newKey(in("service-accounts.key"))
	for _, l := range wanted.Leaves {
		key := newKey(in(l.File + ".key"))
		signed := must(x509.CreateCertificate(rand.Reader, l.certificate(), authority, key.Public(), signer))
		write(in(l.File+".crt"), "CERTIFICATE", signed)
	}
}
